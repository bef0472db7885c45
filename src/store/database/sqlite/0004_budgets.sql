-- Budgets that were begun anew within their periods: what was spent by then (in the unit of the budget; costs and seconds in
-- millionths), and when (seconds since 1970).
CREATE TABLE budget_resets (
    key_id TEXT NOT NULL,
    unit TEXT NOT NULL,
    period TEXT NOT NULL,
    reset_at INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    PRIMARY KEY (key_id, unit, period)
) STRICT, WITHOUT ROWID;
