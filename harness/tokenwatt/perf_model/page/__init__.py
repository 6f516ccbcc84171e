"""Pages that say how the predictor was made, how far it was off, and what it expects of each system.

    trials         rows in, scores out: with and without operator tables, with a GPU or a model left out
    score_page     those scores as a page, with `readings` of the worst rows and a `residual_plot` of every row
    named_cases    the same cases on every system
    system_page    what is known of one system, and its named cases
    rack_ratio     one rack against another, and the page that holds it against what was published
    write          all of it into a folder: `tokenwatt predict ROWS --score --page FOLDER`
    readme         the figures that the README of the repository quotes

Measured values are other people's data: pages hold ratios of predicted to measured, never a measured value.
"""
