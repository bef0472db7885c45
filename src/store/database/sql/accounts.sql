SELECT id, rules FROM accounts ORDER BY id
