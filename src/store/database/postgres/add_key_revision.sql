WITH moved AS (UPDATE revisions SET value = $1 WHERE name = 'keys')
INSERT INTO key_revisions (n, change_id, gateway, accepts_rollback_from) VALUES ($1, $2, $3, $4)
