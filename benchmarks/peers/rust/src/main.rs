//! The Rust client as a measured program. The README, one folder up, has its arguments and its answer.
//!
//! Settings: a release build, `batch_send` of 1,000 messages, which its README calls the fastest, in batches of 1,000
//! instead of 100. It has no option for credits (it begins with 10) and no sub-entries.

use std::collections::HashMap;
use std::error::Error;
use std::future::{ready, Ready};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use rabbitmq_stream_client::error::ProducerPublishError;
use rabbitmq_stream_client::types::{
    HashRoutingMurmurStrategy, Message, OffsetSpecification, RoutingStrategy,
};
use rabbitmq_stream_client::{ConfirmationStatus, Environment};
use tokio::sync::Notify;
use tokio::time::timeout;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Confirmed = Result<ConfirmationStatus, ProducerPublishError>;

const BATCH: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(300);

/// Counts down what is still to be confirmed, or to be read.
struct Left {
    count: AtomicI64,
    failed: AtomicI64,
    done: Notify,
}

impl Left {
    fn new(count: i64) -> Arc<Self> {
        Arc::new(Left {
            count: AtomicI64::new(count),
            failed: AtomicI64::new(0),
            done: Notify::new(),
        })
    }

    fn confirm(&self, status: Confirmed) {
        if !status.is_ok_and(|status| status.confirmed()) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

struct Peer {
    environment: Environment,
    streams: Vec<String>,
    is_super: bool,
    messages: usize,
    warm_up: usize,
    bodies: Vec<Vec<u8>>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let given: HashMap<String, String> = std::env::args()
        .skip(1)
        .filter_map(|argument| {
            argument
                .split_once('=')
                .map(|(name, value)| (name.to_string(), value.to_string()))
        })
        .collect();
    let value = |name: &str| {
        given
            .get(name)
            .cloned()
            .ok_or_else(|| format!("{name} is missing"))
    };
    let environment = Environment::builder()
        .host(&value("host")?)
        .port(value("port")?.parse()?)
        .username(&value("user")?)
        .password(&value("password")?)
        .virtual_host(&value("vhost")?)
        .build()
        .await?;
    let size: usize = value("size")?.parse()?;
    let peer = Peer {
        environment,
        streams: value("streams")?.split(',').map(String::from).collect(),
        is_super: value("super")? == "1",
        messages: value("messages")?.parse()?,
        warm_up: value("warm_up")?.parse()?,
        bodies: (0..BATCH.min(1_000_000 / size).max(1))
            .map(|number| body(number, size))
            .collect(),
    };
    match value("task")?.as_str() {
        "publish" => peer.publish().await,
        "consume" => peer.consume().await,
        task => Err(format!("no such task: {task}").into()),
    }
}

impl Peer {
    /// Publishes in turn to all streams, a batch to each, until all is confirmed.
    async fn publish(&self) -> Outcome<()> {
        if self.is_super {
            let strategy = RoutingStrategy::HashRoutingStrategy(HashRoutingMurmurStrategy {
                routing_extractor: &key_of,
            });
            let builder = self.environment.super_stream_producer(strategy);
            let mut producer = builder.build(&self.streams[0]).await?;
            self.publish_with(async |_, messages: Vec<Message>, left: Arc<Left>| {
                for message in messages {
                    producer.send(message, confirming(&left)).await?;
                }
                Outcome::Ok(())
            })
            .await?;
            producer.close().await?;
            return Ok(());
        }
        let mut producers = Vec::new();
        for stream in &self.streams {
            // A batch is a frame, and a frame of more than the broker takes ends the connection.
            let batch = BATCH.min(900_000 / self.bodies[0].len()).max(1);
            let builder = self.environment.producer().batch_size(batch);
            producers.push(builder.build(stream).await?);
        }
        self.publish_with(async |at: usize, messages, left: Arc<Left>| {
            let producer = &producers[at % producers.len()];
            producer.batch_send(messages, confirming(&left)).await?;
            Outcome::Ok(())
        })
        .await?;
        for producer in producers {
            producer.close().await?;
        }
        Ok(())
    }

    /// Hands over all messages; `send` gets the number of a batch, and the batch.
    async fn publish_with(
        &self,
        mut send: impl AsyncFnMut(usize, Vec<Message>, Arc<Left>) -> Outcome<()>,
    ) -> Outcome<()> {
        let (mut started, mut cpu) = (Instant::now(), 0.0);
        for count in [self.warm_up, self.messages] {
            if count == 0 {
                continue;
            }
            (started, cpu) = (Instant::now(), processor_time());
            let left = Left::new(count as i64);
            for (at, first) in (0..count).step_by(BATCH).enumerate() {
                let size = BATCH.min(count - first);
                let bodies = self.bodies.iter().cycle().take(size);
                let messages = bodies.map(|body| Message::builder().body(body.clone()).build());
                send(at, messages.collect(), left.clone()).await?;
            }
            timeout(PATIENCE, left.done.notified()).await?;
            let failed = left.failed.load(Ordering::Relaxed);
            if failed > 0 {
                return Err(format!("{failed} messages were not confirmed").into());
            }
        }
        self.say(0, started, cpu);
        Ok(())
    }

    /// Reads all streams from their first message; before that as many messages as are asked for, to warm up.
    async fn consume(&self) -> Outcome<()> {
        if self.warm_up > 0 {
            self.read(self.warm_up).await?;
        }
        let (started, cpu) = (Instant::now(), processor_time());
        let bytes = self.read(self.messages).await?;
        self.say(bytes, started, cpu);
        Ok(())
    }

    async fn read(&self, count: usize) -> Outcome<usize> {
        if self.is_super {
            let mut builder = self.environment.super_stream_consumer();
            builder = builder.offset(OffsetSpecification::First);
            let mut consumer = builder.build(&self.streams[0]).await?;
            let mut bytes = 0;
            for _ in 0..count {
                let next = timeout(PATIENCE, consumer.next()).await?;
                let delivery = next.ok_or("the consumer ended")??;
                bytes += delivery.message().data().map_or(0, |data| data.len());
            }
            consumer.handle().close().await?;
            return Ok(bytes);
        }
        let mut tasks = Vec::new();
        for (at, stream) in self.streams.iter().enumerate() {
            let builder = self.environment.consumer();
            let mut consumer = builder
                .offset(OffsetSpecification::First)
                .build(stream)
                .await?;
            let share = share(count, at, self.streams.len());
            tasks.push(tokio::spawn(async move {
                let mut bytes = 0;
                let reading = async {
                    for _ in 0..share {
                        let delivery = consumer.next().await.ok_or("the consumer ended")??;
                        bytes += delivery.message().data().map_or(0, |data| data.len());
                    }
                    Outcome::Ok(bytes)
                };
                let outcome = timeout(PATIENCE, reading).await?;
                consumer.handle().close().await?;
                outcome
            }));
        }
        let mut bytes = 0;
        for task in tasks {
            bytes += task.await??;
        }
        Ok(bytes)
    }

    fn say(&self, bytes: usize, started: Instant, cpu: f64) {
        println!(
            "{{\"messages\":{},\"bytes\":{bytes},\"seconds\":{:.6},\"cpu\":{:.6}}}",
            self.messages,
            started.elapsed().as_secs_f64(),
            processor_time() - cpu
        );
    }
}

/// What is called with the confirm of a message.
fn confirming(left: &Arc<Left>) -> impl Fn(Confirmed) -> Ready<()> + Clone + Send + Sync + 'static {
    let left = left.clone();
    move |status| {
        left.confirm(status);
        ready(())
    }
}

/// How many of `count` messages a stream has: batches of 1,000 went to the streams in turn.
fn share(count: usize, at: usize, streams: usize) -> usize {
    let whole = count / BATCH;
    let batches = whole / streams + usize::from(at < whole % streams);
    let rest = if whole % streams == at {
        count % BATCH
    } else {
        0
    };
    batches * BATCH + rest
}

fn body(number: usize, size: usize) -> Vec<u8> {
    let mut body = format!("{number:08} ").into_bytes();
    body.resize(size.max(9), b'x');
    body.truncate(size);
    body
}

fn key_of(message: &Message) -> String {
    let data = message.data().unwrap_or_default();
    String::from_utf8_lossy(&data[..data.len().min(8)]).into_owned()
}

/// What this process has used, in seconds, with the system's for it.
fn processor_time() -> f64 {
    // SAFETY: getrusage fills what it is given, and RUSAGE_SELF cannot fail.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
