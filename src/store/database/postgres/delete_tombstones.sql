DELETE FROM keys WHERE deleted_at IS NOT NULL
    AND revision < (SELECT min(n) FROM key_revisions WHERE committed_at >= now() - INTERVAL '30 days')
