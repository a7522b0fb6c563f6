import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.rabbitmq.stream.Message;
import com.rabbitmq.stream.MessageBuilder;
import com.rabbitmq.stream.Properties;
import com.rabbitmq.stream.amqp.UnsignedByte;
import com.rabbitmq.stream.amqp.UnsignedInteger;
import com.rabbitmq.stream.amqp.UnsignedLong;
import com.rabbitmq.stream.amqp.UnsignedShort;
import java.util.ArrayList;
import java.util.Date;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;

/** Messages as JSON. A value is ["type", "text"], ["list", [value, ...]] or ["map", [[value, value], ...]]. */
class Messages {

  private static final HexFormat HEX = HexFormat.of();

  private Messages() {}

  static Message build(MessageBuilder builder, JsonObject given) {
    builder.addData(HEX.parseHex(given.get("body").getAsString()));
    if (given.has("id")) {
      builder.publishingId(given.get("id").getAsLong());
    }
    if (given.has("properties")) {
      MessageBuilder.PropertiesBuilder properties = builder.properties();
      for (Map.Entry<String, JsonElement> entry : given.getAsJsonObject("properties").entrySet()) {
        setProperty(properties, entry.getKey(), toJava(entry.getValue()));
      }
    }
    if (given.has("application")) {
      MessageBuilder.ApplicationPropertiesBuilder application = builder.applicationProperties();
      for (Map.Entry<String, JsonElement> entry : given.getAsJsonObject("application").entrySet()) {
        addEntry(application, entry.getKey(), entry.getValue().getAsJsonArray());
      }
    }
    Message message = builder.build();
    if (given.has("annotations")) {
      for (Map.Entry<String, JsonElement> entry : given.getAsJsonObject("annotations").entrySet()) {
        message.annotate(entry.getKey(), toJava(entry.getValue()));
      }
    }
    return message;
  }

  private static void setProperty(MessageBuilder.PropertiesBuilder properties, String name, Object value) {
    switch (name) {
      case "message_id":
        if (value instanceof String string) {
          properties.messageId(string);
        } else if (value instanceof UnsignedLong number) {
          properties.messageId(number.longValue());
        } else if (value instanceof UUID uuid) {
          properties.messageId(uuid);
        } else {
          properties.messageId((byte[]) value);
        }
        break;
      case "correlation_id":
        if (value instanceof String string) {
          properties.correlationId(string);
        } else if (value instanceof UnsignedLong number) {
          properties.correlationId(number.longValue());
        } else if (value instanceof UUID uuid) {
          properties.correlationId(uuid);
        } else {
          properties.correlationId((byte[]) value);
        }
        break;
      case "user_id":
        properties.userId((byte[]) value);
        break;
      case "to":
        properties.to((String) value);
        break;
      case "subject":
        properties.subject((String) value);
        break;
      case "reply_to":
        properties.replyTo((String) value);
        break;
      case "content_type":
        properties.contentType(value.toString());
        break;
      case "content_encoding":
        properties.contentEncoding(value.toString());
        break;
      case "absolute_expiry_time":
        properties.absoluteExpiryTime(((Date) value).getTime());
        break;
      case "creation_time":
        properties.creationTime(((Date) value).getTime());
        break;
      case "group_id":
        properties.groupId((String) value);
        break;
      case "group_sequence":
        properties.groupSequence(((UnsignedInteger) value).longValue());
        break;
      case "reply_to_group_id":
        properties.replyToGroupId((String) value);
        break;
      default:
        throw new IllegalArgumentException("no such property: " + name);
    }
  }

  private static void addEntry(MessageBuilder.ApplicationPropertiesBuilder entries, String name, JsonArray given) {
    String text = given.get(1).getAsString();
    switch (given.get(0).getAsString()) {
      case "boolean" -> entries.entry(name, Boolean.parseBoolean(text));
      case "ubyte" -> entries.entryUnsigned(name, (byte) Integer.parseInt(text));
      case "ushort" -> entries.entryUnsigned(name, (short) Integer.parseInt(text));
      case "uint" -> entries.entryUnsigned(name, Integer.parseUnsignedInt(text));
      case "ulong" -> entries.entryUnsigned(name, Long.parseUnsignedLong(text));
      case "byte" -> entries.entry(name, Byte.parseByte(text));
      case "short" -> entries.entry(name, Short.parseShort(text));
      case "int" -> entries.entry(name, Integer.parseInt(text));
      case "long" -> entries.entry(name, Long.parseLong(text));
      case "float" -> entries.entry(name, Float.intBitsToFloat(Integer.parseUnsignedInt(text, 16)));
      case "double" -> entries.entry(name, Double.longBitsToDouble(Long.parseUnsignedLong(text, 16)));
      case "char" -> entries.entry(name, text.charAt(0));
      case "timestamp" -> entries.entryTimestamp(name, Long.parseLong(text));
      case "uuid" -> entries.entry(name, UUID.fromString(text));
      case "binary" -> entries.entry(name, HEX.parseHex(text));
      case "string" -> entries.entry(name, text);
      case "symbol" -> entries.entrySymbol(name, text);
      default -> throw new IllegalArgumentException("no such type here: " + given);
    }
  }

  private static Object toJava(JsonElement given) {
    JsonArray typed = given.getAsJsonArray();
    String type = typed.get(0).getAsString();
    if (type.equals("list")) {
      List<Object> items = new ArrayList<>();
      typed.get(1).getAsJsonArray().forEach(item -> items.add(toJava(item)));
      return items;
    }
    if (type.equals("map")) {
      Map<Object, Object> pairs = new LinkedHashMap<>();
      for (JsonElement pair : typed.get(1).getAsJsonArray()) {
        pairs.put(toJava(pair.getAsJsonArray().get(0)), toJava(pair.getAsJsonArray().get(1)));
      }
      return pairs;
    }
    String text = typed.get(1).getAsString();
    return switch (type) {
      case "null" -> null;
      case "boolean" -> Boolean.parseBoolean(text);
      case "ubyte" -> UnsignedByte.valueOf((byte) Integer.parseInt(text));
      case "ushort" -> UnsignedShort.valueOf((short) Integer.parseInt(text));
      case "uint" -> UnsignedInteger.valueOf(Integer.parseUnsignedInt(text));
      case "ulong" -> UnsignedLong.valueOf(Long.parseUnsignedLong(text));
      case "byte" -> Byte.parseByte(text);
      case "short" -> Short.parseShort(text);
      case "int" -> Integer.parseInt(text);
      case "long" -> Long.parseLong(text);
      case "float" -> Float.intBitsToFloat(Integer.parseUnsignedInt(text, 16));
      case "double" -> Double.longBitsToDouble(Long.parseUnsignedLong(text, 16));
      case "char" -> text.charAt(0);
      case "timestamp" -> new Date(Long.parseLong(text));
      case "uuid" -> UUID.fromString(text);
      case "binary" -> HEX.parseHex(text);
      case "string" -> text;
      case "symbol" -> com.rabbitmq.stream.amqp.Symbol.valueOf(text);
      default -> throw new IllegalArgumentException("no such type here: " + given);
    };
  }

  static Map<String, Object> describe(Message message) {
    Map<String, Object> described = new TreeMap<>();
    try {
      described.put("body", HEX.formatHex(message.getBodyAsBinary()));
    } catch (IllegalStateException value) { // the client's way to say that it is not data
      described.put("value", fromJava(message.getBody()));
    }
    if (message.getProperties() != null) {
      described.put("properties", describe(message.getProperties()));
    }
    if (message.getApplicationProperties() != null) {
      described.put("application", describe(message.getApplicationProperties()));
    }
    Map<String, Object> annotations = message.getMessageAnnotations();
    if (annotations != null && !annotations.isEmpty()) { // the client does not tell absent from empty
      described.put("annotations", describe(annotations));
    }
    return described;
  }

  private static Map<String, Object> describe(Map<String, Object> values) {
    Map<String, Object> described = new TreeMap<>();
    values.forEach((name, value) -> described.put(name, fromJava(value)));
    return described;
  }

  private static Map<String, Object> describe(Properties properties) {
    Map<String, Object> described = new TreeMap<>();
    put(described, "message_id", properties.getMessageId());
    put(described, "user_id", properties.getUserId());
    put(described, "to", properties.getTo());
    put(described, "subject", properties.getSubject());
    put(described, "reply_to", properties.getReplyTo());
    put(described, "correlation_id", properties.getCorrelationId());
    put(described, "content_type", symbol(properties.getContentType()));
    put(described, "content_encoding", symbol(properties.getContentEncoding()));
    put(described, "absolute_expiry_time", date(properties.getAbsoluteExpiryTime()));
    put(described, "creation_time", date(properties.getCreationTime()));
    put(described, "group_id", properties.getGroupId());
    long sequence = properties.getGroupSequence();
    put(described, "group_sequence", sequence > 0 ? UnsignedInteger.valueOf((int) sequence) : null);
    put(described, "reply_to_group_id", properties.getReplyToGroupId());
    return described;
  }

  private static void put(Map<String, Object> described, String name, Object value) {
    if (value != null) {
      described.put(name, fromJava(value));
    }
  }

  private static Object symbol(String text) {
    return text == null ? null : com.rabbitmq.stream.amqp.Symbol.valueOf(text);
  }

  private static Object date(long milliseconds) { // the client does not tell absent from 1970
    return milliseconds > 0 ? new Date(milliseconds) : null;
  }

  private static Object[] fromJava(Object value) {
    if (value == null) {
      return new Object[] {"null", ""};
    } else if (value instanceof List<?> items) {
      return new Object[] {"list", items.stream().map(Messages::fromJava).toArray()};
    } else if (value instanceof Map<?, ?> pairs) {
      return new Object[] {
        "map",
        pairs.entrySet().stream()
            .map(pair -> new Object[] {fromJava(pair.getKey()), fromJava(pair.getValue())})
            .toArray()
      };
    } else if (value instanceof byte[] bytes) {
      return new Object[] {"binary", HEX.formatHex(bytes)};
    } else if (value instanceof Float number) {
      return new Object[] {"float", HEX.toHexDigits(Float.floatToRawIntBits(number))};
    } else if (value instanceof Double number) {
      return new Object[] {"double", HEX.toHexDigits(Double.doubleToRawLongBits(number))};
    } else if (value instanceof Date date) {
      return new Object[] {"timestamp", Long.toString(date.getTime())};
    }
    String type =
        switch (value.getClass().getSimpleName()) {
          case "Boolean" -> "boolean";
          case "UnsignedByte" -> "ubyte";
          case "UnsignedShort" -> "ushort";
          case "UnsignedInteger" -> "uint";
          case "UnsignedLong" -> "ulong";
          case "Byte" -> "byte";
          case "Short" -> "short";
          case "Integer" -> "int";
          case "Long" -> "long";
          case "Character" -> "char";
          case "UUID" -> "uuid";
          case "String" -> "string";
          case "Symbol" -> "symbol";
          default -> throw new IllegalArgumentException("no type for " + value.getClass().getName());
        };
    return new Object[] {type, value.toString()};
  }
}
