"""`tidegate replay`: a trace of real traffic against a server, and a verdict on what came out."""
