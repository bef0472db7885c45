-- ctid is the place of a row in the table: it finds the rows again without their long key.
DELETE FROM usage_sums
WHERE ctid IN (
    SELECT ctid FROM usage_sums
    WHERE scope = $1 AND width = $2 AND start < $3
    LIMIT $4
)
