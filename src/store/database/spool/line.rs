//! The lines of the spool's files: each is a checksum, a space, and what it covers.
//!
//! A line of usage goes on with the batch's writer and number, how many requests and single records it has, and the batch as
//! JSON. What stands before the JSON is enough to count what waits, without parsing it.
//!
//! Invariant: a line that was torn or changed is recognised; its newline is its end.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::price::Cost;
use crate::policy::usage::{Certainty, RequestCounts};
use crate::store::database::record::{
    Batch, KeyUse, RecordEnd, SumsKey, SumsMap, UsageRecord, UsageSums,
};

/// A line with its checksum and its newline.
pub(crate) fn seal(text: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(text).to_hex();
    let mut line = Vec::with_capacity(hash.len() + text.len() + 2);
    line.extend_from_slice(hash.as_bytes());
    line.push(b' ');
    line.extend_from_slice(text);
    line.push(b'\n');
    line
}

/// What a line covers. None: it was torn or changed.
pub(crate) fn unseal(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (hash, text) = split_at_space(line)?;
    let hash = blake3::Hash::from_hex(hash).ok()?;
    (blake3::hash(text) == hash).then_some(text)
}

fn split_at_space(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', text)?;
    Some((&text[..at], &text[at + 1..]))
}

/// What stands before the JSON of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineHead {
    pub(crate) writer: Arc<str>,
    pub(crate) number: i64,
    pub(crate) requests: i64,
    pub(crate) records: u64,
}

impl LineHead {
    pub(crate) fn of(batch: &Batch) -> Self {
        Self {
            writer: Arc::clone(&batch.writer),
            number: batch.number,
            requests: batch.sums.values().map(|sums| sums.requests).sum(),
            records: batch.records.len() as u64,
        }
    }
}

/// The line of a batch.
pub(crate) fn of_batch(batch: &Batch) -> Result<Vec<u8>, serde_json::Error> {
    let LineHead {
        writer,
        number,
        requests,
        records,
    } = LineHead::of(batch);
    let mut text = format!("{writer} {number} {requests} {records} ").into_bytes();
    serde_json::to_writer(&mut text, &SpooledBatch::of(batch))?;
    Ok(seal(&text))
}

/// The head of a line, and the JSON behind it. None: the line is damaged.
pub(crate) fn head(line: &[u8]) -> Option<(LineHead, &[u8])> {
    let (writer, text) = split_at_space(unseal(line)?)?;
    let (number, text) = split_at_space(text)?;
    let (requests, text) = split_at_space(text)?;
    let (records, json) = split_at_space(text)?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let head = LineHead {
        writer: text(writer)?.into(),
        number: text(number)?.parse().ok()?,
        requests: text(requests)?.parse().ok()?,
        records: text(records)?.parse().ok()?,
    };
    Some((head, json))
}

/// The batch of a line. `now` is in seconds since 1970. None: the line is damaged.
pub(crate) fn batch(line: &[u8], now: i64) -> Option<Batch> {
    let (head, json) = head(line)?;
    let SpooledBatch {
        gateway,
        records,
        sums,
        key_uses,
    } = serde_json::from_slice(json).ok()?;
    let mut known = SumsMap::new();
    for sums in sums {
        let (key, sums) = sums.read();
        known.entry(key).or_default().add(&sums);
    }
    Some(Batch {
        writer: head.writer,
        gateway: gateway.into(),
        number: head.number,
        now,
        records: records
            .into_iter()
            .map(SpooledRecord::read)
            .collect::<Option<_>>()?,
        sums: known,
        key_uses: key_uses.into_iter().map(SpooledKeyUse::read).collect(),
    })
}

/// Puts batches together that no server has seen. Those of one writer become one, with the last one's number.
#[derive(Debug, Default)]
pub(crate) struct BatchMerger {
    merged: Vec<Batch>,
    /// By key, of the last batch.
    key_uses: HashMap<Arc<str>, KeyUse>,
    /// The most records of a batch.
    most: usize,
}

impl BatchMerger {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, mut batch: Batch) {
        let key_uses = std::mem::take(&mut batch.key_uses);
        match self.merged.last_mut() {
            Some(last)
                if last.writer == batch.writer
                    && last.gateway == batch.gateway
                    && last.records.len() + batch.records.len() <= self.most =>
            {
                last.number = batch.number;
                last.records.append(&mut batch.records);
                for (key, sums) in batch.sums {
                    last.sums.entry(key).or_default().add(&sums);
                }
            }
            _ => {
                self.end_last();
                self.merged.push(batch);
            }
        }
        for KeyUse {
            key_id,
            last_used_at,
            requests,
        } in key_uses
        {
            let known = self.key_uses.entry(Arc::clone(&key_id)).or_insert(KeyUse {
                key_id,
                last_used_at,
                requests: 0,
            });
            known.add(requests, last_used_at);
        }
    }

    fn end_last(&mut self) {
        if let Some(last) = self.merged.last_mut() {
            last.key_uses = self.key_uses.drain().map(|(_, key_use)| key_use).collect();
        }
    }

    pub(crate) fn finish(mut self) -> Vec<Batch> {
        self.end_last();
        self.merged
    }
}

#[derive(Serialize, Deserialize)]
struct SpooledBatch<'a> {
    #[serde(borrow)]
    gateway: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<SpooledRecord<'a>>,
    sums: Vec<SpooledSums<'a>>,
    key_uses: Vec<SpooledKeyUse<'a>>,
}

impl<'a> SpooledBatch<'a> {
    fn of(batch: &'a Batch) -> Self {
        let Batch {
            writer: _,
            gateway,
            number: _,
            now: _,
            records,
            sums,
            key_uses,
        } = batch;
        Self {
            gateway: Cow::Borrowed(gateway),
            records: records.iter().map(SpooledRecord::of).collect(),
            sums: sums.iter().map(SpooledSums::of).collect(),
            key_uses: key_uses.iter().map(SpooledKeyUse::of).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct SpooledRecord<'a> {
    request_id: Cow<'a, str>,
    started_at: i64,
    ended_at: i64,
    key_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<Cow<'a, str>>,
    model: Cow<'a, str>,
    upstream: Cow<'a, str>,
    route: Cow<'a, str>,
    status: u16,
    end: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<u32>,
    duration_ms: u32,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_cached: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_reasoning: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audio_microseconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<u64>,
    certainty: Cow<'a, str>,
    /// In millionths of the currency's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<u64>,
}

impl<'a> SpooledRecord<'a> {
    fn of(record: &'a UsageRecord) -> Self {
        let UsageRecord {
            request_id,
            started_at,
            ended_at,
            key_id,
            account,
            model,
            upstream,
            route,
            status,
            end,
            client_address,
            first_byte_ms,
            duration_ms,
            bytes_in,
            bytes_out,
            counts,
            cost,
        } = record;
        let RequestCounts {
            input,
            input_cached,
            output,
            output_reasoning,
            audio_microseconds,
            images,
            certainty,
        } = *counts;
        Self {
            request_id: Cow::Borrowed(request_id),
            started_at: *started_at,
            ended_at: *ended_at,
            key_id: Cow::Borrowed(key_id),
            account: account.as_deref().map(Cow::Borrowed),
            model: Cow::Borrowed(model),
            upstream: Cow::Borrowed(upstream),
            route: Cow::Borrowed(route),
            status: *status,
            end: Cow::Borrowed(end.label()),
            client_address: *client_address,
            first_byte_ms: *first_byte_ms,
            duration_ms: *duration_ms,
            bytes_in: *bytes_in,
            bytes_out: *bytes_out,
            input,
            input_cached,
            output,
            output_reasoning,
            audio_microseconds,
            images,
            certainty: Cow::Borrowed(certainty.label()),
            cost: cost.map(Cost::millionths),
        }
    }

    /// None: a name in it is not known.
    fn read(self) -> Option<UsageRecord> {
        let Self {
            request_id,
            started_at,
            ended_at,
            key_id,
            account,
            model,
            upstream,
            route,
            status,
            end,
            client_address,
            first_byte_ms,
            duration_ms,
            bytes_in,
            bytes_out,
            input,
            input_cached,
            output,
            output_reasoning,
            audio_microseconds,
            images,
            certainty,
            cost,
        } = self;
        Some(UsageRecord {
            request_id: request_id.into(),
            started_at,
            ended_at,
            key_id: key_id.into(),
            account: account.map(Arc::from),
            model: model.into(),
            upstream: upstream.into(),
            route: Cow::Owned(route.into_owned()),
            status,
            end: RecordEnd::of_label(&end)?,
            client_address,
            first_byte_ms,
            duration_ms,
            bytes_in,
            bytes_out,
            counts: RequestCounts {
                input,
                input_cached,
                output,
                output_reasoning,
                audio_microseconds,
                images,
                certainty: Certainty::of_label(&certainty)?,
            },
            cost: cost.map(Cost::of_millionths),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct SpooledSums<'a> {
    hour: i64,
    key_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<Cow<'a, str>>,
    model: Cow<'a, str>,
    upstream: Cow<'a, str>,
    requests: i64,
    errors: i64,
    at_least: i64,
    unknown: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_tokens: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input_cached_tokens: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_tokens: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_reasoning_tokens: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audio_microseconds: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<i64>,
    /// In millionths of the currency's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<i64>,
}

impl<'a> SpooledSums<'a> {
    fn of((key, sums): (&'a SumsKey, &'a UsageSums)) -> Self {
        let SumsKey {
            hour,
            key_id,
            account,
            model,
            upstream,
        } = key;
        let UsageSums {
            requests,
            errors,
            at_least,
            unknown,
            input_tokens,
            input_cached_tokens,
            output_tokens,
            output_reasoning_tokens,
            audio_microseconds,
            images,
            cost,
        } = *sums;
        Self {
            hour: *hour,
            key_id: Cow::Borrowed(key_id),
            account: account.as_deref().map(Cow::Borrowed),
            model: Cow::Borrowed(model),
            upstream: Cow::Borrowed(upstream),
            requests,
            errors,
            at_least,
            unknown,
            input_tokens,
            input_cached_tokens,
            output_tokens,
            output_reasoning_tokens,
            audio_microseconds,
            images,
            cost,
        }
    }

    fn read(self) -> (SumsKey, UsageSums) {
        let Self {
            hour,
            key_id,
            account,
            model,
            upstream,
            requests,
            errors,
            at_least,
            unknown,
            input_tokens,
            input_cached_tokens,
            output_tokens,
            output_reasoning_tokens,
            audio_microseconds,
            images,
            cost,
        } = self;
        let key = SumsKey {
            hour,
            key_id: key_id.into(),
            account: account.map(Arc::from),
            model: model.into(),
            upstream: upstream.into(),
        };
        let sums = UsageSums {
            requests,
            errors,
            at_least,
            unknown,
            input_tokens,
            input_cached_tokens,
            output_tokens,
            output_reasoning_tokens,
            audio_microseconds,
            images,
            cost,
        };
        (key, sums)
    }
}

#[derive(Serialize, Deserialize)]
struct SpooledKeyUse<'a> {
    key_id: Cow<'a, str>,
    last_used_at: i64,
    requests: u64,
}

impl<'a> SpooledKeyUse<'a> {
    fn of(key_use: &'a KeyUse) -> Self {
        let KeyUse {
            key_id,
            last_used_at,
            requests,
        } = key_use;
        Self {
            key_id: Cow::Borrowed(key_id),
            last_used_at: *last_used_at,
            requests: *requests,
        }
    }

    fn read(self) -> KeyUse {
        let Self {
            key_id,
            last_used_at,
            requests,
        } = self;
        KeyUse {
            key_id: key_id.into(),
            last_used_at,
            requests,
        }
    }
}
