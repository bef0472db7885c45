SELECT id, revision, CASE WHEN deleted_at IS NULL THEN line END
FROM keys WHERE revision > $1 ORDER BY revision, position
