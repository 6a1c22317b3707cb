"""kopf's side: log-in, watch, and the process's life. A few lines each; the only room that imports kopf."""
