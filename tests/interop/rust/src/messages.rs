//! Messages as JSON. A value is ["type", "text"]. Lists and maps cannot be reached through the client's API.

use std::collections::HashMap;

use chrono::DateTime;
use rabbitmq_stream_client::types::{AnnonationKey, Message, Properties, SimpleValue, Value};
use serde::Deserialize;
use serde_json::{json, Map, Value as Json};
use uuid::Uuid;

use crate::Outcome;

/// A type, and a text that says the value.
type Typed = (String, String);

/// A message to publish. All parts but the body may be absent.
#[derive(Deserialize)]
pub struct MessageJson {
    body: String,
    id: Option<u64>,
    properties: Option<HashMap<String, Typed>>,
    application: Option<HashMap<String, Typed>>,
    annotations: Option<HashMap<String, Typed>>,
}

pub fn build(given: MessageJson) -> Outcome<Message> {
    let mut builder = Message::builder().body(from_hex(&given.body)?);
    if let Some(id) = given.id {
        builder = builder.publishing_id(id);
    }
    if let Some(properties) = given.properties {
        let mut fields = builder.properties();
        for (name, value) in properties {
            let value = simple(&value)?;
            fields = match (name.as_str(), value) {
                ("message_id", SimpleValue::String(id)) => fields.message_id(id),
                ("message_id", SimpleValue::Ulong(id)) => fields.message_id(id),
                ("message_id", SimpleValue::Uuid(id)) => fields.message_id(id),
                ("message_id", SimpleValue::Binary(id)) => fields.message_id(id),
                ("correlation_id", SimpleValue::String(id)) => fields.correlation_id(id),
                ("correlation_id", SimpleValue::Ulong(id)) => fields.correlation_id(id),
                ("correlation_id", SimpleValue::Uuid(id)) => fields.correlation_id(id),
                ("correlation_id", SimpleValue::Binary(id)) => fields.correlation_id(id),
                ("user_id", SimpleValue::Binary(id)) => fields.user_id(id),
                ("to", SimpleValue::String(text)) => fields.to(text),
                ("subject", SimpleValue::String(text)) => fields.subject(text),
                ("reply_to", SimpleValue::String(text)) => fields.reply_to(text),
                ("content_type", SimpleValue::Symbol(text)) => fields.content_type(text),
                ("content_encoding", SimpleValue::Symbol(text)) => fields.content_encoding(text),
                ("absolute_expiry_time", SimpleValue::Timestamp(time)) => {
                    fields.absolute_expiry_time(time)
                }
                ("creation_time", SimpleValue::Timestamp(time)) => fields.creation_time(time),
                ("group_id", SimpleValue::String(text)) => fields.group_id(text),
                ("group_sequence", SimpleValue::Uint(number)) => fields.group_sequence(number),
                ("reply_to_group_id", SimpleValue::String(text)) => fields.reply_to_group_id(text),
                (name, value) => return Err(format!("no property {name} is {value:?}").into()),
            };
        }
        builder = fields.message_builder();
    }
    if let Some(application) = given.application {
        let mut entries = builder.application_properties();
        for (name, value) in application {
            entries = entries.insert(name, simple(&value)?);
        }
        builder = entries.message_builder();
    }
    if let Some(annotations) = given.annotations {
        let mut entries = builder.message_annotations();
        for (name, value) in annotations {
            entries = entries.insert(name, Value::Simple(simple(&value)?));
        }
        builder = entries.message_builder();
    }
    Ok(builder.build())
}

pub fn describe(message: &Message) -> Outcome<Json> {
    let mut described = Map::new();
    if let Some(body) = message.data() {
        described.insert("body".into(), to_hex(body).into());
    } else if let Some(value) = value_of(message) {
        described.insert("value".into(), value);
    }
    if let Some(properties) = message.properties() {
        described.insert("properties".into(), describe_properties(properties));
    }
    if let Some(application) = message.application_properties() {
        let found: Map<String, Json> = application
            .iter()
            .map(|(name, value)| (name.clone(), typed(value)))
            .collect();
        described.insert("application".into(), found.into());
    }
    if let Some(annotations) = message.message_annotations() {
        let mut found = Map::new();
        for (key, value) in annotations.iter() {
            let AnnonationKey::Symbol(name) = key else {
                return Err(format!("an annotation with the key {key:?}").into());
            };
            let Value::Simple(value) = value else {
                return Err(format!("an annotation that is {value:?}").into());
            };
            found.insert(name.to_string(), typed(value));
        }
        described.insert("annotations".into(), found.into());
    }
    Ok(described.into())
}

fn describe_properties(properties: &Properties) -> Json {
    let mut found = Map::new();
    let text = |value: &Option<String>| value.clone().map(SimpleValue::String);
    let mut put = |name: &str, value: Option<SimpleValue>| {
        if let Some(value) = value {
            found.insert(name.into(), typed(&value));
        }
    };
    // The type of the two ids has no public name.
    macro_rules! identifier {
        ($id:expr) => {
            $id.as_ref().map(|id| {
                let string: Result<&String, _> = id.try_into();
                let number: Result<&u64, _> = id.try_into();
                let uuid: Result<&Uuid, _> = id.try_into();
                let binary: Result<&Vec<u8>, _> = id.try_into();
                match (string, number, uuid, binary) {
                    (Ok(id), ..) => SimpleValue::String(id.clone()),
                    (_, Ok(id), ..) => SimpleValue::Ulong(*id),
                    (_, _, Ok(id), _) => SimpleValue::Uuid(*id),
                    (.., Ok(id)) => SimpleValue::Binary(id.clone()),
                    _ => SimpleValue::Null,
                }
            })
        };
    }
    put("message_id", identifier!(properties.message_id));
    put("correlation_id", identifier!(properties.correlation_id));
    put(
        "user_id",
        properties.user_id.clone().map(SimpleValue::Binary),
    );
    put("to", text(&properties.to));
    put("subject", text(&properties.subject));
    put("reply_to", text(&properties.reply_to));
    put(
        "content_type",
        properties.content_type.clone().map(SimpleValue::Symbol),
    );
    put(
        "content_encoding",
        properties.content_encoding.clone().map(SimpleValue::Symbol),
    );
    put(
        "absolute_expiry_time",
        properties
            .absolute_expiry_time
            .clone()
            .map(SimpleValue::Timestamp),
    );
    put(
        "creation_time",
        properties.creation_time.clone().map(SimpleValue::Timestamp),
    );
    put("group_id", text(&properties.group_id));
    put(
        "group_sequence",
        properties.group_sequence.map(SimpleValue::Uint),
    );
    put("reply_to_group_id", text(&properties.reply_to_group_id));
    found.into()
}

/// The body where it is one value. The client gives it only to those who name its type.
fn value_of(message: &Message) -> Option<Json> {
    macro_rules! first_of {
        ($($kind:ty => $variant:ident),*) => {
            $(if let Ok(Some(value)) = message.value_ref::<&$kind>() {
                return Some(typed(&SimpleValue::$variant(value.clone())));
            })*
        };
    }
    first_of!(
        bool => Boolean, u8 => Ubyte, u16 => Ushort, u32 => Uint, u64 => Ulong,
        i8 => Byte, i16 => Short, i32 => Int, i64 => Long,
        char => Char, Uuid => Uuid, Vec<u8> => Binary, String => String
    );
    None
}

fn simple((kind, text): &Typed) -> Outcome<SimpleValue> {
    Ok(match kind.as_str() {
        "null" => SimpleValue::Null,
        "boolean" => SimpleValue::Boolean(text.parse()?),
        "ubyte" => SimpleValue::Ubyte(text.parse()?),
        "ushort" => SimpleValue::Ushort(text.parse()?),
        "uint" => SimpleValue::Uint(text.parse()?),
        "ulong" => SimpleValue::Ulong(text.parse()?),
        "byte" => SimpleValue::Byte(text.parse()?),
        "short" => SimpleValue::Short(text.parse()?),
        "int" => SimpleValue::Int(text.parse()?),
        "long" => SimpleValue::Long(text.parse()?),
        "float" => SimpleValue::Float(f32::from_bits(u32::from_str_radix(text, 16)?).into()),
        "double" => SimpleValue::Double(f64::from_bits(u64::from_str_radix(text, 16)?).into()),
        "char" => SimpleValue::Char(text.parse()?),
        "timestamp" => {
            let time = DateTime::from_timestamp_millis(text.parse()?);
            SimpleValue::Timestamp(time.ok_or("a time out of range")?.into())
        }
        "uuid" => SimpleValue::Uuid(text.parse()?),
        "binary" => SimpleValue::Binary(from_hex(text)?),
        "string" => SimpleValue::String(text.clone()),
        "symbol" => SimpleValue::Symbol(text.as_str().into()),
        _ => return Err(format!("no such type here: {kind}").into()),
    })
}

fn typed(value: &SimpleValue) -> Json {
    match value {
        SimpleValue::Null => json!(["null", ""]),
        SimpleValue::Boolean(value) => json!(["boolean", value.to_string()]),
        SimpleValue::Ubyte(value) => json!(["ubyte", value.to_string()]),
        SimpleValue::Ushort(value) => json!(["ushort", value.to_string()]),
        SimpleValue::Uint(value) => json!(["uint", value.to_string()]),
        SimpleValue::Ulong(value) => json!(["ulong", value.to_string()]),
        SimpleValue::Byte(value) => json!(["byte", value.to_string()]),
        SimpleValue::Short(value) => json!(["short", value.to_string()]),
        SimpleValue::Int(value) => json!(["int", value.to_string()]),
        SimpleValue::Long(value) => json!(["long", value.to_string()]),
        SimpleValue::Float(value) => {
            let number: f32 = shown(value).parse().expect("a number");
            json!(["float", format!("{:08x}", number.to_bits())])
        }
        SimpleValue::Double(value) => {
            let number: f64 = shown(value).parse().expect("a number");
            json!(["double", format!("{:016x}", number.to_bits())])
        }
        SimpleValue::Char(value) => json!(["char", value.to_string()]),
        SimpleValue::Timestamp(value) => {
            let time = DateTime::parse_from_rfc3339(&shown(value)).expect("a time");
            json!(["timestamp", time.timestamp_millis().to_string()])
        }
        SimpleValue::Uuid(value) => json!(["uuid", value.to_string()]),
        SimpleValue::Binary(value) => json!(["binary", to_hex(value)]),
        SimpleValue::String(value) => json!(["string", value]),
        SimpleValue::Symbol(value) => json!(["symbol", value.to_string()]),
    }
}

/// What a value of one field holds: float, double and timestamp show it only to those who debug.
fn shown(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let inner = text.rsplit('(').next().unwrap_or_default();
    inner.trim_end_matches(')').to_owned()
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Outcome<Vec<u8>> {
    (0..text.len() / 2)
        .map(|at| Ok(u8::from_str_radix(&text[at * 2..at * 2 + 2], 16)?))
        .collect()
}
