"""Jupyter and IPython: `%%cached` cells, and tables of statistics, health and explanations.

%load_ext cachekit.integrations.jupyter
"""

from __future__ import annotations

from typing import Any

from cachekit.health import Health
from cachekit.integrations.jupyter.magic import CachedCells
from cachekit.integrations.jupyter.tables import explanation_table, health_table, stats_table
from cachekit.model.reports import Explanation
from cachekit.model.stats import CacheStats


def load_ipython_extension(shell: Any) -> None:
    """Register the magic, and the tables; IPython calls this at `%load_ext`."""
    shell.register_magics(CachedCells)
    tables = shell.display_formatter.formatters["text/html"]
    tables.for_type(CacheStats, stats_table)
    tables.for_type(Health, health_table)
    tables.for_type(Explanation, explanation_table)
