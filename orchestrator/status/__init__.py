"""The supervisor's HTTP: /metrics, /health, /livez, /readyz. It reads snapshots and files, and changes nothing."""
