SELECT id, revision, CASE WHEN deleted_at IS NULL THEN line END,
    (SELECT (extract(epoch FROM clock_timestamp() - committed_at) * 1000000)::BIGINT FROM key_revisions WHERE n = keys.revision)
FROM keys WHERE revision > $1 ORDER BY revision, position
-- One more than is put into force key by key: then all of them are read.
LIMIT 10001
