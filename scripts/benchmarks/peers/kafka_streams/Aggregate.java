import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams: a processor with a store, one thread.
 *
 * <p>Durability: RocksDB (the default store, with its cache) and a changelog topic, exactly once by transactions, a commit each
 * 100 ms (the default then).
 */
public final class Aggregate {
  private static final String STORE = "totals";
  private static final ObjectReader EVENTS = new ObjectMapper().readerFor(Event.class);
  private static boolean began;

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Event {
    public String userId;
    public long at;
    public Article properties;
    public boolean report;
  }

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Article {
    public long price;
  }

  record Totals(long count, long total, long seen) {
    static final Serde<Totals> SERDE =
        Serdes.serdeFrom(
            (topic, row) ->
                row == null
                    ? null
                    : ByteBuffer.allocate(24).putLong(row.count).putLong(row.total).putLong(row.seen).array(),
            (topic, bytes) -> {
              if (bytes == null) return null;
              ByteBuffer buffer = ByteBuffer.wrap(bytes);
              return new Totals(buffer.getLong(), buffer.getLong(), buffer.getLong());
            });
  }

  static final class Adder extends ContextualProcessor<String, byte[], String, byte[]> {
    private KeyValueStore<String, Totals> store;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
      super.init(context);
      store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<String, byte[]> record) {
      Event event;
      try {
        event = EVENTS.readValue(record.value());
      } catch (java.io.IOException error) {
        throw new IllegalArgumentException(error);
      }
      Totals old = store.get(event.userId);
      Totals row =
          old == null
              ? new Totals(1, event.properties.price, event.at)
              : new Totals(old.count + 1, old.total + event.properties.price, Math.max(old.seen, event.at));
      store.put(event.userId, row);
      if (event.report) {
        began();
        context().forward(record.withKey(event.userId).withValue(result(event, row)));
      }
    }
  }

  static void began() {
    if (!began) {
      began = true;
      System.out.println("began");
    }
  }

  static byte[] result(Event event, Totals row) {
    return String.format(
            "{\"user\":\"%s\",\"count\":%d,\"total\":%d,\"seen\":%d,\"at\":%d}",
            event.userId, row.count, row.total, row.seen, event.at)
        .getBytes(StandardCharsets.UTF_8);
  }

  public static void main(String[] arguments) {
    String bootstrap = arguments[0], source = arguments[1], sink = arguments[2];
    Properties config = new Properties();
    config.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[3]);
    config.put(StreamsConfig.STATE_DIR_CONFIG, arguments[4]);
    config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
    config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    config.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");

    ProcessorSupplier<String, byte[], String, byte[]> adder =
        new ProcessorSupplier<>() {
          @Override
          public Processor<String, byte[], String, byte[]> get() {
            return new Adder();
          }

          @Override
          public Set<StoreBuilder<?>> stores() {
            return Set.of(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.String(), Totals.SERDE)
                    .withCachingEnabled()
                    .withLoggingEnabled(Map.of()));
          }
        };
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(source, Consumed.with(Serdes.String(), Serdes.ByteArray()))
        .process(adder)
        .to(sink, Produced.with(Serdes.String(), Serdes.ByteArray()));
    KafkaStreams streams = new KafkaStreams(builder.build(), config);
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }
}
