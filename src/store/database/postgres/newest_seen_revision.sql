SELECT max(seen_revision) FROM gateways WHERE seen_at > clock_timestamp() - INTERVAL '10 seconds'
