//! The Rust client as a line-based program: one JSON request a line in, one JSON answer a line out.
//! README.md, one folder up, has the requests.

mod messages;

use std::error::Error;
use std::time::Duration;

use futures::StreamExt;
use messages::{build, describe, MessageJson};
use rabbitmq_stream_client::error::ClientError;
use rabbitmq_stream_client::types::{
    HashRoutingMurmurStrategy, Message, OffsetSpecification, ResponseCode,
    RoutingKeyRoutingStrategy, RoutingStrategy,
};
use rabbitmq_stream_client::{
    Client, ClientOptions, ConfirmationStatus, ConsumerHandle, Environment, FilterConfiguration,
    MessageContext,
};
use serde::Deserialize;
use serde_json::{json, Value as Json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::timeout;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Less than the tests wait for an answer, so that this program says what is missing.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Request {
    Publish {
        stream: String,
        name: Option<String>,
        filter: Option<String>,
        messages: Vec<MessageJson>,
    },
    Route {
        stream: String,
        by: String,
        keys: Vec<String>,
    },
    Read {
        stream: String,
        offset: u64,
        last: String,
        filters: Option<Vec<String>>,
        #[serde(default)]
        match_unfiltered: bool,
    },
    Sequence {
        stream: String,
        name: String,
    },
    Store {
        stream: String,
        name: String,
        offset: u64,
    },
    Stored {
        stream: String,
        name: String,
    },
    Join {
        stream: String,
        name: String,
    },
    Leave,
}

struct Program {
    environment: Environment,
    client: Client,
    member: Option<ConsumerHandle>,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, host, port, user, password, vhost] = &arguments[..] else {
        return Err("arguments: HOST PORT USER PASSWORD VHOST".into());
    };
    let port: u16 = port.parse()?;
    let environment = Environment::builder()
        .host(host)
        .port(port)
        .username(user)
        .password(password)
        .virtual_host(vhost)
        .build()
        .await?;
    let options = ClientOptions::builder()
        .host(host)
        .port(port)
        .user(user)
        .password(password)
        .v_host(vhost)
        .build();
    let client = Client::connect(options).await?;
    let mut program = Program {
        environment,
        client,
        member: None,
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line) {
            Ok(request) => program.handle(request).await,
            Err(error) => Err(error.into()),
        };
        println!(
            "{}",
            answer.unwrap_or_else(|error| json!({"error": error.to_string()}))
        );
    }
    Ok(())
}

impl Program {
    async fn handle(&mut self, request: Request) -> Outcome<Json> {
        match request {
            Request::Publish {
                stream,
                name,
                filter,
                messages,
            } => self.publish(&stream, name, filter, messages).await,
            Request::Route { stream, by, keys } => self.route(&stream, &by, keys).await,
            Request::Read {
                stream,
                offset,
                last,
                filters,
                match_unfiltered,
            } => {
                let filter =
                    filters.map(|values| FilterConfiguration::new(values, match_unfiltered));
                self.read(&stream, offset, last.as_bytes(), filter).await
            }
            Request::Sequence { stream, name } => {
                let sequence = self.client.query_publisher_sequence(&name, &stream).await?;
                Ok(json!({ "sequence": sequence }))
            }
            Request::Store {
                stream,
                name,
                offset,
            } => {
                self.client.store_offset(&name, &stream, offset).await?;
                Ok(json!({}))
            }
            Request::Stored { stream, name } => match self.client.query_offset(name, &stream).await
            {
                Ok(offset) => Ok(json!({ "offset": offset })),
                Err(ClientError::RequestError(ResponseCode::OffsetNotFound)) => {
                    Ok(json!({ "offset": null }))
                }
                Err(error) => Err(error.into()),
            },
            Request::Join { stream, name } => self.join(&stream, &name).await,
            Request::Leave => {
                let member = self.member.take().ok_or("it has not joined")?;
                member.close().await?;
                Ok(json!({}))
            }
        }
    }

    async fn publish(
        &self,
        stream: &str,
        name: Option<String>,
        filter: Option<String>,
        messages: Vec<MessageJson>,
    ) -> Outcome<Json> {
        let messages: Vec<Message> = messages.into_iter().map(build).collect::<Outcome<_>>()?;
        let builder = self.environment.producer();
        let statuses = if let Some(name) = name {
            let mut producer = builder.name(&name).build(stream).await?;
            let statuses = timeout(PATIENCE, producer.batch_send_with_confirm(messages)).await;
            producer.close().await?;
            statuses??
        } else {
            let builder = match filter {
                Some(value) => builder.filter_value_extractor(move |_| value.clone()),
                None => builder,
            };
            let producer = builder.build(stream).await?;
            let statuses = timeout(PATIENCE, producer.batch_send_with_confirm(messages)).await;
            producer.close().await?;
            statuses??
        };
        for status in &statuses {
            check(status)?;
        }
        Ok(json!({"confirmed": statuses.len()}))
    }

    async fn route(&self, stream: &str, by: &str, keys: Vec<String>) -> Outcome<Json> {
        let strategy = match by {
            "key" => RoutingStrategy::RoutingKeyStrategy(RoutingKeyRoutingStrategy {
                routing_extractor: &key_of,
            }),
            _ => RoutingStrategy::HashRoutingStrategy(HashRoutingMurmurStrategy {
                routing_extractor: &key_of,
            }),
        };
        let mut producer = self
            .environment
            .super_stream_producer(strategy)
            .build(stream)
            .await?;
        let (sender, mut confirms) = mpsc::unbounded_channel();
        let count = keys.len();
        let mut sent = Ok(());
        for key in keys {
            let sender = sender.clone();
            let confirmed = move |status| {
                let _ = sender.send(status); // nobody listens any more once something has failed
                async {}
            };
            sent = producer
                .send(Message::builder().body(key).build(), confirmed)
                .await;
            if sent.is_err() {
                break;
            }
        }
        if sent.is_ok() {
            for _ in 0..count {
                let status = timeout(PATIENCE, confirms.recv()).await?;
                check(&status.ok_or("the producer ended")??)?;
            }
        }
        producer.close().await?;
        sent?;
        Ok(json!({ "confirmed": count }))
    }

    /// The messages from an offset on until one with the body `last`, which is left out.
    async fn read(
        &self,
        stream: &str,
        offset: u64,
        last: &[u8],
        filter: Option<FilterConfiguration>,
    ) -> Outcome<Json> {
        let mut consumer = self
            .environment
            .consumer()
            .offset(OffsetSpecification::Offset(offset))
            .filter_input(filter)
            .build(stream)
            .await?;
        let mut found = Vec::new();
        loop {
            let next = timeout(PATIENCE, consumer.next())
                .await
                .map_err(|_| format!("{} messages came, and not the last one", found.len()))?;
            let delivery = next.ok_or("the consumer ended")??;
            if delivery.message().data() == Some(last) {
                break;
            }
            let mut described = describe(delivery.message())?;
            described["offset"] = json!(delivery.offset());
            found.push(described);
        }
        consumer.handle().close().await?;
        Ok(json!({ "messages": found }))
    }

    /// Makes the program a member of a group of single active consumers. It stores the offset of each message.
    async fn join(&mut self, stream: &str, name: &str) -> Outcome<Json> {
        let mut consumer = self
            .environment
            .consumer()
            .name(name)
            .enable_single_active_consumer(true)
            .offset(OffsetSpecification::First)
            .consumer_update(|active, context: MessageContext| async move {
                println!("{}", json!({"event": "turn", "active": active == 1}));
                let client = context.client();
                match client.query_offset(context.name(), &context.stream()).await {
                    Ok(stored) => OffsetSpecification::Offset(stored + 1),
                    Err(_) => OffsetSpecification::First,
                }
            })
            .build(stream)
            .await?;
        self.member = Some(consumer.handle());
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                if let Err(error) = consumer.store_offset(delivery.offset()).await {
                    eprintln!("offset {} is not stored: {error}", delivery.offset());
                    return;
                }
                let body = messages::to_hex(delivery.message().data().unwrap_or_default());
                let event = json!({"event": "message", "offset": delivery.offset(), "body": body});
                println!("{event}");
            }
        });
        Ok(json!({}))
    }
}

fn key_of(message: &Message) -> String {
    String::from_utf8_lossy(message.data().unwrap_or_default()).into_owned()
}

fn check(status: &ConfirmationStatus) -> Outcome<()> {
    if status.confirmed() {
        return Ok(());
    }
    Err(format!("not confirmed: {:?}", status.status()).into())
}
