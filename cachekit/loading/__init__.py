"""One load per key: flights, permits, the load path, refresh-ahead and warming."""
