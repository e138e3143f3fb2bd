"""In a notebook: a live dashboard, watching from a cell, frames, and tuning on history (extra ``notebook``)."""

try:
    from rxcompact.notebook.dashboard import Dashboard, dashboard, watch
    from rxcompact.notebook.frame import compact_frame
    from rxcompact.notebook.tune import Row, Tuning, explore, tune
    from rxcompact.suggest import suggest
except ModuleNotFoundError as error:
    if (error.name or "").startswith("rxcompact"):
        raise
    raise ImportError('this needs an extra: pip install "rxcompact[notebook]"') from error

__all__ = ["Dashboard", "Row", "Tuning", "compact_frame", "dashboard", "explore", "suggest", "tune", "watch"]
