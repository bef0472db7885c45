DELETE FROM key_revisions
WHERE n < (SELECT min(n) FROM key_revisions WHERE committed_at >= now() - INTERVAL '30 days')
