"""`tidegate demo`: what Tidegate is for, to be seen in a few seconds."""
