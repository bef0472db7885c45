SELECT (extract(epoch FROM clock_timestamp() - committed_at) * 1000000)::BIGINT
FROM key_revisions WHERE n = $1
