"""Run folders, the live console and reports made from them."""
