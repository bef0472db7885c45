UPDATE alerts
SET attempts = $2, next_at = $3, ended_at = $4, is_delivered = $5, error = $6
WHERE id = $1
