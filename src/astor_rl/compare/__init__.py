"""Fair comparisons: arms x seeds trained under one budget, judged alike, set against each other."""
