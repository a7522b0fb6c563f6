import com.rabbitmq.stream.ConfirmationHandler;
import com.rabbitmq.stream.Consumer;
import com.rabbitmq.stream.ConsumerBuilder;
import com.rabbitmq.stream.ConsumerFlowStrategy;
import com.rabbitmq.stream.Environment;
import com.rabbitmq.stream.OffsetSpecification;
import com.rabbitmq.stream.Producer;
import com.rabbitmq.stream.ProducerBuilder;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/**
 * The Java client as a measured program. The README, one folder up from the languages, has its arguments and its answer.
 *
 * <p>Settings: batches of up to 1,000 instead of 100, 50,000 messages in flight as this project has, and 50 credits; for
 * latencies the client's own batches of up to 100.
 */
public class Peer {

  private static final int BATCH = 1000;
  private static final int IN_FLIGHT = 50_000;
  private static final int CREDITS = 50;
  private static final long TICK = 1_000_000;
  private static final OperatingSystemMXBean SYSTEM =
      (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

  private final Environment environment;
  private final Map<String, String> given;
  private final String[] streams;
  private final boolean isSuper;
  private final long messages;
  private final long warmUp;
  private final byte[][] bodies;
  private final AtomicLong failed = new AtomicLong();

  private long started;
  private long startedCpu;

  private Peer(Environment environment, Map<String, String> given) {
    this.environment = environment;
    this.given = given;
    streams = given.get("streams").split(",");
    isSuper = given.get("super").equals("1");
    messages = Long.parseLong(given.get("messages"));
    warmUp = Long.parseLong(given.get("warm_up"));
    bodies = bodies(Integer.parseInt(given.get("size")));
  }

  public static void main(String[] arguments) throws Exception {
    Map<String, String> given = new HashMap<>();
    for (String argument : arguments) {
      String[] parts = argument.split("=", 2);
      given.put(parts[0], parts[1]);
    }
    try (Environment environment =
        Environment.builder()
            .host(given.get("host"))
            .port(Integer.parseInt(given.get("port")))
            .username(given.get("user"))
            .password(given.get("password"))
            .virtualHost(given.get("vhost"))
            .build()) {
      Peer peer = new Peer(environment, given);
      switch (given.get("task")) {
        case "publish" -> peer.publish();
        case "consume" -> peer.consume();
        case "latency" -> peer.latency();
        default -> throw new IllegalArgumentException("no such task: " + given.get("task"));
      }
    }
  }

  /** Publishes in turn to all streams, a batch to each, until all is confirmed. */
  private void publish() throws Exception {
    List<Producer> producers = new ArrayList<>();
    for (String stream : streams) {
      producers.add(producer(stream, BATCH));
    }
    send(producers, warmUp);
    start();
    send(producers, messages);
    double seconds = seconds();
    say(String.format(Locale.ROOT, "\"messages\":%d,\"seconds\":%.6f,\"cpu\":%.6f", messages, seconds, cpu()));
    producers.forEach(Producer::close);
  }

  private void send(List<Producer> producers, long count) throws InterruptedException {
    AtomicLong left = new AtomicLong(count);
    CountDownLatch done = new CountDownLatch(count == 0 ? 0 : 1);
    ConfirmationHandler handler =
        status -> {
          if (!status.isConfirmed()) {
            failed.incrementAndGet();
          }
          if (left.decrementAndGet() == 0) {
            done.countDown();
          }
        };
    for (long sent = 0; sent < count; sent++) {
      Producer producer = producers.get((int) (sent / BATCH % producers.size()));
      byte[] body = bodies[(int) (sent % bodies.length)];
      producer.send(producer.messageBuilder().addData(body).build(), handler);
    }
    await(done);
    if (failed.get() > 0) {
      throw new IllegalStateException(failed + " messages were not confirmed");
    }
  }

  /** Reads all streams from their first message; before that as many messages as are asked for, to warm up. */
  private void consume() throws Exception {
    if (warmUp > 0) {
      read(warmUp);
    }
    start();
    long bytes = read(messages);
    double seconds = seconds();
    say(
        String.format(
            Locale.ROOT,
            "\"messages\":%d,\"bytes\":%d,\"seconds\":%.6f,\"cpu\":%.6f",
            messages,
            bytes,
            seconds,
            cpu()));
  }

  private long read(long count) throws InterruptedException {
    AtomicLong seen = new AtomicLong();
    AtomicLong bytes = new AtomicLong();
    CountDownLatch done = new CountDownLatch(1);
    List<Consumer> consumers = new ArrayList<>();
    for (String stream : streams) {
      ConsumerBuilder builder = environment.consumerBuilder();
      builder = isSuper ? builder.superStream(stream) : builder.stream(stream);
      consumers.add(
          builder
              .offset(OffsetSpecification.first())
              .noTrackingStrategy()
              .flow()
              .strategy(ConsumerFlowStrategy.creditOnChunkArrival(CREDITS))
              .builder()
              .messageHandler(
                  (context, message) -> {
                    long number = seen.incrementAndGet();
                    if (number <= count) { // the rest of the last chunk comes too
                      bytes.addAndGet(message.getBodyAsBinary().length);
                    }
                    if (number == count) {
                      done.countDown();
                    }
                  })
              .build());
    }
    await(done);
    consumers.forEach(Consumer::close);
    return bytes.get();
  }

  /** Publishes what is due, once a millisecond, and counts the time of each message from when it was due. */
  private void latency() throws Exception {
    double rate = Double.parseDouble(given.get("rate"));
    int total = (int) (warmUp + messages);
    long[] latencies = new long[total];
    CountDownLatch done = new CountDownLatch(total);
    try (Producer producer = producer(streams[0], 100)) {
      long begin = System.nanoTime();
      for (int sent = 0; sent < total; ) {
        long due = Math.min(total, (long) ((System.nanoTime() - begin) * rate / 1e9));
        for (; sent < due; sent++) {
          int number = sent;
          byte[] body = bodies[sent % bodies.length];
          producer.send(
              producer.messageBuilder().addData(body).build(),
              status -> {
                if (!status.isConfirmed()) {
                  failed.incrementAndGet();
                }
                latencies[number] = System.nanoTime() - begin - (long) (number * 1e9 / rate);
                done.countDown();
              });
        }
        LockSupport.parkNanos(TICK);
      }
      await(done);
    }
    if (failed.get() > 0) {
      throw new IllegalStateException(failed + " messages were not confirmed");
    }
    long[] sorted = Arrays.copyOfRange(latencies, (int) warmUp, total);
    Arrays.sort(sorted);
    say(
        String.format(
            Locale.ROOT,
            "\"messages\":%d,\"seconds\":%.6f,\"p50\":%.1f,\"p99\":%.1f",
            messages,
            messages / rate,
            sorted[sorted.length / 2] / 1e3,
            sorted[(int) (sorted.length * 0.99)] / 1e3));
  }

  private Producer producer(String stream, int batch) {
    ProducerBuilder builder = environment.producerBuilder();
    if (isSuper) {
      builder = builder.superStream(stream).routing(message -> key(message.getBodyAsBinary())).hash().producerBuilder();
    } else {
      builder = builder.stream(stream);
    }
    return builder.batchSize(batch).maxUnconfirmedMessages(IN_FLIGHT).confirmTimeout(Duration.ofMinutes(5)).build();
  }

  /** What stands before the first blank: the number of the body. */
  private static String key(byte[] body) {
    return new String(body, 0, Math.min(8, body.length), StandardCharsets.US_ASCII);
  }

  private static byte[][] bodies(int size) {
    byte[][] made = new byte[Math.max(1, Math.min(BATCH, 1_000_000 / size))][];
    for (int number = 0; number < made.length; number++) {
      made[number] = new byte[size];
      Arrays.fill(made[number], (byte) 'x');
      byte[] head = String.format(Locale.ROOT, "%08d ", number).getBytes(StandardCharsets.US_ASCII);
      System.arraycopy(head, 0, made[number], 0, Math.min(size, head.length));
    }
    return made;
  }

  private void await(CountDownLatch done) throws InterruptedException {
    if (!done.await(5, TimeUnit.MINUTES)) {
      throw new IllegalStateException("not all came within 5 minutes");
    }
  }

  private void start() {
    startedCpu = SYSTEM.getProcessCpuTime();
    started = System.nanoTime();
  }

  private double seconds() {
    return (System.nanoTime() - started) / 1e9;
  }

  private double cpu() {
    return (SYSTEM.getProcessCpuTime() - startedCpu) / 1e9;
  }

  private static void say(String fields) {
    System.out.println("{" + fields + "}");
  }
}
