import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.rabbitmq.stream.ConfirmationHandler;
import com.rabbitmq.stream.Constants;
import com.rabbitmq.stream.Consumer;
import com.rabbitmq.stream.ConsumerBuilder;
import com.rabbitmq.stream.Environment;
import com.rabbitmq.stream.Message;
import com.rabbitmq.stream.NoOffsetException;
import com.rabbitmq.stream.OffsetSpecification;
import com.rabbitmq.stream.Producer;
import com.rabbitmq.stream.ProducerBuilder;
import com.rabbitmq.stream.compression.Compression;
import com.rabbitmq.stream.impl.Client;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * The Java client as a line-based program: one JSON request a line in, one JSON answer a line out. README.md, three
 * folders up, has the requests.
 */
public class Interop {

  /** Less than the tests wait for an answer, so that this program says what is missing. */
  private static final Duration PATIENCE = Duration.ofSeconds(20);

  private static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
  private static final HexFormat HEX = HexFormat.of();

  private final Environment environment;
  private final Client.ClientParameters parameters;
  private final PrintStream output;
  private Consumer member;

  private Interop(Environment environment, Client.ClientParameters parameters, PrintStream output) {
    this.environment = environment;
    this.parameters = parameters;
    this.output = output;
  }

  public static void main(String[] arguments) throws Exception {
    PrintStream output = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try (Environment environment =
        Environment.builder()
            .host(arguments[0])
            .port(Integer.parseInt(arguments[1]))
            .username(arguments[2])
            .password(arguments[3])
            .virtualHost(arguments[4])
            .build()) {
      Client.ClientParameters parameters =
          new Client.ClientParameters()
              .host(arguments[0])
              .port(Integer.parseInt(arguments[1]))
              .username(arguments[2])
              .password(arguments[3])
              .virtualHost(arguments[4]);
      Interop program = new Interop(environment, parameters, output);
      for (String line = input.readLine(); line != null; line = input.readLine()) {
        Map<String, Object> answer;
        try {
          answer = program.handle(JsonParser.parseString(line).getAsJsonObject());
        } catch (Exception error) {
          error.printStackTrace();
          answer = Map.of("error", error.toString());
        }
        program.say(answer);
      }
    }
  }

  private synchronized void say(Map<String, Object> line) {
    output.println(GSON.toJson(line));
    output.flush();
  }

  private Map<String, Object> handle(JsonObject asked) throws Exception {
    switch (asked.get("do").getAsString()) {
      case "publish":
        return publish(asked);
      case "route":
        return route(asked);
      case "read":
        return read(asked);
      case "sequence":
        return sequence(asked);
      case "store":
        environment.storeOffset(text(asked, "name"), text(asked, "stream"), asked.get("offset").getAsLong());
        return Map.of();
      case "stored":
        return stored(asked);
      case "join":
        join(asked);
        return Map.of();
      case "leave":
        member.close();
        return Map.of();
      default:
        throw new IllegalArgumentException("no such request: " + asked);
    }
  }

  private Map<String, Object> publish(JsonObject asked) throws Exception {
    ProducerBuilder builder = environment.producerBuilder().stream(text(asked, "stream"));
    if (asked.has("name")) {
      builder.name(text(asked, "name"));
    }
    if (asked.has("sub_entry")) {
      builder
          .subEntrySize(asked.get("sub_entry").getAsInt())
          .compression(Compression.valueOf(text(asked, "codec").toUpperCase(Locale.ROOT)));
    }
    if (asked.has("filter")) {
      String filter = text(asked, "filter");
      builder.filterValue(message -> filter);
    }
    List<JsonElement> messages = asked.getAsJsonArray("messages").asList();
    try (Producer producer = builder.build()) {
      Confirms confirms = new Confirms(messages.size());
      for (JsonElement message : messages) {
        producer.send(Messages.build(producer.messageBuilder(), message.getAsJsonObject()), confirms.handler());
      }
      confirms.await();
    }
    return Map.of("confirmed", messages.size());
  }

  private Map<String, Object> route(JsonObject asked) throws Exception {
    ProducerBuilder builder = environment.producerBuilder().superStream(text(asked, "stream"));
    ProducerBuilder.RoutingConfiguration routing =
        builder.routing(message -> new String(message.getBodyAsBinary(), StandardCharsets.UTF_8));
    if (text(asked, "by").equals("key")) {
      routing.key();
    } else {
      routing.hash();
    }
    List<JsonElement> keys = asked.getAsJsonArray("keys").asList();
    try (Producer producer = routing.producerBuilder().build()) {
      Confirms confirms = new Confirms(keys.size());
      for (JsonElement key : keys) {
        byte[] body = key.getAsString().getBytes(StandardCharsets.UTF_8);
        producer.send(producer.messageBuilder().addData(body).build(), confirms.handler());
      }
      confirms.await();
    }
    return Map.of("confirmed", keys.size());
  }

  /** The messages from an offset on until one with the body "last", which is left out. */
  private Map<String, Object> read(JsonObject asked) throws Exception {
    byte[] last = text(asked, "last").getBytes(StandardCharsets.UTF_8);
    BlockingQueue<Map<String, Object>> deliveries = new LinkedBlockingQueue<>();
    ConsumerBuilder builder =
        environment.consumerBuilder().stream(text(asked, "stream"))
            .offset(OffsetSpecification.offset(asked.get("offset").getAsLong()))
            .messageHandler((context, message) -> deliveries.add(describe(context.offset(), message)));
    if (asked.has("filters")) {
      builder
          .filter()
          .values(asked.getAsJsonArray("filters").asList().stream().map(JsonElement::getAsString).toArray(String[]::new))
          .postFilter(message -> true)
          .matchUnfiltered(asked.has("match_unfiltered"))
          .builder();
    }
    List<Map<String, Object>> found = new ArrayList<>();
    try (Consumer consumer = builder.build()) {
      for (long end = System.nanoTime() + PATIENCE.toNanos(); ; ) {
        Map<String, Object> next = deliveries.poll(end - System.nanoTime(), TimeUnit.NANOSECONDS);
        if (next == null) {
          throw new IllegalStateException(found.size() + " messages came, and not the last one");
        }
        if (next.containsKey("error")) {
          throw new IllegalStateException("offset " + next.get("offset") + ": " + next.get("error"));
        }
        if (HEX.formatHex(last).equals(next.get("body"))) {
          return Map.of("messages", found);
        }
        found.add(next);
      }
    }
  }

  private static Map<String, Object> describe(long offset, Message message) {
    Map<String, Object> described;
    try {
      described = Messages.describe(message);
    } catch (RuntimeException error) { // the client would log it, and go on with the next message
      described = new TreeMap<>(Map.of("error", error.toString()));
    }
    described.put("offset", offset);
    return described;
  }

  private Map<String, Object> sequence(JsonObject asked) {
    ProducerBuilder builder = environment.producerBuilder().stream(text(asked, "stream"));
    try (Producer producer = builder.name(text(asked, "name")).build()) {
      return Map.of("sequence", producer.getLastPublishingId());
    }
  }

  /** Asks with the low-level client: a consumer that is opened to ask may store an offset itself. */
  private Map<String, Object> stored(JsonObject asked) {
    Map<String, Object> answer = new TreeMap<>();
    try (Client client = new Client(parameters)) {
      Client.QueryOffsetResponse found = client.queryOffset(text(asked, "name"), text(asked, "stream"));
      if (!found.isOk() && found.getResponseCode() != Constants.RESPONSE_CODE_NO_OFFSET) {
        throw new IllegalStateException("code " + found.getResponseCode());
      }
      answer.put("offset", found.isOk() ? found.getOffset() : null);
    }
    return answer;
  }

  /** Makes the program a member of a group of single active consumers. It stores the offset of each message. */
  private void join(JsonObject asked) {
    member =
        environment.consumerBuilder().stream(text(asked, "stream"))
            .name(text(asked, "name"))
            .singleActiveConsumer()
            .manualTrackingStrategy()
            .checkInterval(Duration.ZERO)
            .builder()
            .consumerUpdateListener(
                context -> {
                  say(Map.of("event", "turn", "active", context.isActive()));
                  try {
                    return OffsetSpecification.offset(context.consumer().storedOffset() + 1);
                  } catch (NoOffsetException none) {
                    return OffsetSpecification.first();
                  }
                })
            .messageHandler(
                (context, message) -> {
                  context.storeOffset();
                  String body = HEX.formatHex(message.getBodyAsBinary());
                  say(Map.of("event", "message", "offset", context.offset(), "body", body));
                })
            .build();
  }

  private static String text(JsonObject asked, String name) {
    return asked.get(name).getAsString();
  }

  /** Counts the confirms of a request. */
  private static class Confirms {
    private final CountDownLatch left;
    private final AtomicReference<String> failure = new AtomicReference<>();

    Confirms(int count) {
      left = new CountDownLatch(count);
    }

    ConfirmationHandler handler() {
      return status -> {
        if (!status.isConfirmed()) {
          failure.set("not confirmed: code " + status.getCode());
        }
        left.countDown();
      };
    }

    void await() throws InterruptedException {
      if (!left.await(PATIENCE.toNanos(), TimeUnit.NANOSECONDS)) {
        throw new IllegalStateException("not all is confirmed in time");
      }
      if (failure.get() != null) {
        throw new IllegalStateException(failure.get());
      }
    }
  }
}
