//! The issuer's and the gate's ports on the model. Names that belong to them appear in this file only.

use super::broker::Record;
use super::consumer::SimRecordSource;
use super::dead_letters::{DeadLetter, SimDeadLetters};
use super::rest::{RestReply, SimKafkaRest};
use dropgate_issuer::consume::ports::{DeadLetters, Delivery, Partitions, RecordSource, RejectReason};
use dropgate_issuer::kafka::ports::header;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::{Http, HttpRequest, HttpResponse, SendFault};
use std::time::Duration;

impl RecordSource for SimRecordSource {
    async fn recv(&self) -> Result<Delivery, Fault> {
        match Self::recv(self).await {
            Ok((partition, record)) => {
                let replayed = record.header(header::REPLAYED).is_some();
                let Record { offset, key, value, .. } = record;
                if self.rules().store_at_once {
                    Self::store(self, &[(partition, offset + 1)]);
                }
                Ok(Delivery { partition, offset, key, payload: value, replayed })
            }
            Err(error) => {
                let label = if error.fatal { "fatal" } else { "consume" };
                let mut fault = Fault::unknown(Source::Kafka, label, error.label);
                fault.retry = !error.fatal;
                Err(fault)
            }
        }
    }

    fn revoked(&self) -> Vec<i32> {
        Self::revoked(self)
    }

    fn pause(&self) {
        self.set_paused(true);
    }

    fn resume(&self) {
        self.set_paused(false);
    }

    fn store(&self, next: &[(i32, i64)]) -> Result<(), Fault> {
        // All of them belong to someone else by now, who will find the rows.
        let _ = Self::store(self, next);
        Ok(())
    }

    fn lags(&self) -> Vec<(i32, Option<u64>)> {
        Self::lags(self)
    }

    /// Shown to an operator only, so not modelled.
    fn silent_for(&self) -> Duration {
        Duration::ZERO
    }

    fn unread(&self) -> Option<String> {
        Self::unread(self)
    }

    fn partitions(&self) -> Partitions {
        Partitions { owned: self.owned().len(), all: self.all() }
    }
}

impl DeadLetters for SimDeadLetters {
    async fn publish(&self, letters: &[(&Delivery, &RejectReason)]) -> Vec<Result<(), Fault>> {
        let of = |(delivery, cause): &(&Delivery, &RejectReason)| DeadLetter {
            partition: delivery.partition,
            offset: delivery.offset,
            key: delivery.key.clone(),
            payload: delivery.payload.clone(),
            label: cause.label,
            text: cause.text.clone(),
        };
        let results = self.send(letters.iter().map(of).collect()).await;
        let fault = |error: super::dead_letters::SendError| Fault::unknown(Source::Kafka, "dead_letter", error.0);
        results.into_iter().map(|result| result.map_err(fault)).collect()
    }
}

impl Http for SimKafkaRest {
    async fn post(&self, request: HttpRequest<'_>) -> Result<HttpResponse, SendFault> {
        let header = |name: &str| request.headers.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
        let (content_type, deadline_ms) = (header("content-type"), u64::from(request.deadline_ms));
        let fault = |may_have_arrived, label| SendFault { may_have_arrived, label, detail: label.to_owned() };
        match self.exchange(request.url, content_type, request.body.as_bytes(), deadline_ms).await {
            RestReply::Answer { status, body } => Ok(HttpResponse { status, body }),
            RestReply::Refused => Err(fault(false, "connect")),
            RestReply::Silence => Err(fault(true, "timeout")),
        }
    }
}
