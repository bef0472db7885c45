SELECT
    n, at, actor, via, action, target, account, before, after, address, request_id, previous_hash, hash
FROM audit
WHERE /*where*/
ORDER BY n DESC
LIMIT $1
