SELECT
    /*start*/ AS start,
    /*key*/ AS key_id,
    /*account*/ AS account,
    /*model*/ AS model,
    /*upstream*/ AS upstream,
    CAST(SUM(requests) AS BIGINT),
    CAST(SUM(errors) AS BIGINT),
    CAST(SUM(at_least) AS BIGINT),
    CAST(SUM(unknown) AS BIGINT),
    CAST(SUM(input_tokens) AS BIGINT),
    CAST(SUM(input_cached_tokens) AS BIGINT),
    CAST(SUM(output_tokens) AS BIGINT),
    CAST(SUM(output_reasoning_tokens) AS BIGINT),
    CAST(SUM(audio_microseconds) AS BIGINT),
    CAST(SUM(images) AS BIGINT),
    CAST(SUM(cost) AS BIGINT)
FROM usage_sums
WHERE /*where*/
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5
