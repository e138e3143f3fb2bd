"""In a notebook: a live dashboard, and watching from a cell (extra ``notebook``)."""

try:
    from rxcompact.notebook.dashboard import Dashboard, dashboard
    from rxcompact.notebook.watch import watch
except ModuleNotFoundError as error:
    if (error.name or "").startswith("rxcompact"):
        raise
    raise ImportError('this needs an extra: pip install "rxcompact[notebook]"') from error

__all__ = ["Dashboard", "dashboard", "watch"]
