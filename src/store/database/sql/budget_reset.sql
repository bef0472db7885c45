SELECT reset_at, spent FROM budget_resets WHERE key_id = $1 AND unit = $2 AND period = $3
