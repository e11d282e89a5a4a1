"""Is it still right? Data sets, task metrics, and comparing two runs. What runs is handed in as a callable."""
