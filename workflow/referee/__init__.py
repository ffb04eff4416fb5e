"""One judge for all methods: metrics, tables and figures."""
