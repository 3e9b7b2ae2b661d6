"""Reading and changing Python source: standard library only, shared by tasks and data miners."""
