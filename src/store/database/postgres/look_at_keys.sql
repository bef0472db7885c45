SELECT value,
    (SELECT change_id FROM key_revisions WHERE n = $1),
    (SELECT change_id FROM key_revisions WHERE n = value),
    (SELECT min(n) FROM key_revisions),
    EXISTS (SELECT 1 FROM key_revisions WHERE accepts_rollback_from >= $1)
FROM revisions WHERE name = 'keys'
