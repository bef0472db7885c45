INSERT INTO audit (
    n, at, actor, via, action, target, account, before, after, address, request_id, previous_hash, hash
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
