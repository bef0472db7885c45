INSERT INTO accounts (id, rules)
VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET rules = excluded.rules
