-- The last row that is deleted: the one before the first that is kept, or the newest of all, but no more than $2 rows
-- at a time. No row where nothing is deleted.
SELECT n, hash
FROM audit
WHERE n = (
    SELECT MIN(place)
    FROM (
        SELECT n - 1 AS place FROM (SELECT n FROM audit WHERE at >= $1 ORDER BY n LIMIT 1) AS kept
        UNION ALL
        SELECT MAX(n) FROM audit
        UNION ALL
        SELECT MIN(n) + $2 - 1 FROM audit
    ) AS places
)
