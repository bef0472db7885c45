SELECT id, revision, line, position FROM keys WHERE deleted_at IS NULL
