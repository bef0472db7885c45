INSERT INTO budget_resets (key_id, unit, period, reset_at, spent)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key_id, unit, period) DO UPDATE SET reset_at = excluded.reset_at, spent = excluded.spent
