-- The clock, how many gateways were seen in the last 10 s, and what is known of these limits.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
       (SELECT count(*) FROM gateways WHERE seen_at > clock_timestamp() - interval '10 seconds'),
       asked.holder, asked.kind, known.version, known.state
FROM (SELECT NULL::text AS holder, NULL::text AS kind
      UNION ALL
      SELECT * FROM unnest($1::text[], $2::text[])) AS asked
LEFT JOIN limit_leases AS known ON known.holder = asked.holder AND known.kind = asked.kind
