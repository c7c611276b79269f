"""One self-contained HTML page of models' results: `bksdm.evaluation.page.page.page`."""
