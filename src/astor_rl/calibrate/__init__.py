"""Module 2: how tightly to hold each task to the reference policy."""
