"""Reports: the results table, the plots and the one-file page. They read values of `core` and draw nothing else in."""
