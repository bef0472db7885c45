-- PostgreSQL has no row values of this kind in DELETE with LIMIT, so each dialect has its own.
DELETE FROM usage_sums
WHERE (scope, width, start, subject, account, model, upstream) IN (
    SELECT scope, width, start, subject, account, model, upstream FROM usage_sums
    WHERE scope = $1 AND width = $2 AND start < $3
    LIMIT $4
)
