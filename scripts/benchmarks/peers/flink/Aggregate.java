import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.OffsetResetStrategy;

/**
 * Flink in one JVM: a keyed process function, parallelism 1, objects reused.
 *
 * <p>Durability: state on the heap, a checkpoint to files each second; results exactly once, by a transaction each checkpoint.
 */
public final class Aggregate {
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

  public static final class Totals {
    public long count;
    public long total;
    public long seen;
  }

  public static final class Result {
    public String user;
    public long count;
    public long total;
    public long seen;
    public long at;
  }

  static final class Reader extends AbstractDeserializationSchema<Event> {
    private transient ObjectReader events;

    @Override
    public void open(InitializationContext context) {
      events = new ObjectMapper().readerFor(Event.class);
    }

    @Override
    public Event deserialize(byte[] value) throws IOException {
      return events.readValue(value);
    }
  }

  static final class Adder extends KeyedProcessFunction<String, Event, Result> {
    private transient ValueState<Totals> state;

    @Override
    public void open(OpenContext context) {
      state = getRuntimeContext().getState(new ValueStateDescriptor<>("totals", Totals.class));
    }

    @Override
    public void processElement(Event event, Context context, Collector<Result> out) throws IOException {
      Totals row = state.value();
      if (row == null) row = new Totals();
      row.count += 1;
      row.total += event.properties.price;
      row.seen = Math.max(row.seen, event.at);
      state.update(row);
      if (event.report) {
        began();
        Result result = new Result();
        result.user = event.userId;
        result.count = row.count;
        result.total = row.total;
        result.seen = row.seen;
        result.at = event.at;
        out.collect(result);
      }
    }
  }

  static final class Keys implements SerializationSchema<Result> {
    @Override
    public byte[] serialize(Result result) {
      return result.user.getBytes(StandardCharsets.UTF_8);
    }
  }

  static final class Values implements SerializationSchema<Result> {
    @Override
    public byte[] serialize(Result result) {
      return String.format(
              "{\"user\":\"%s\",\"count\":%d,\"total\":%d,\"seen\":%d,\"at\":%d}",
              result.user, result.count, result.total, result.seen, result.at)
          .getBytes(StandardCharsets.UTF_8);
    }
  }

  static void began() {
    if (!began) {
      began = true;
      System.out.println("began");
    }
  }

  public static void main(String[] arguments) throws Exception {
    String bootstrap = arguments[0], source = arguments[1], sink = arguments[2], appId = arguments[3];
    Configuration config = new Configuration();
    config.set(StateBackendOptions.STATE_BACKEND, "hashmap");
    config.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, "file://" + arguments[4]);
    config.set(PipelineOptions.OBJECT_REUSE, true);
    StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(1, config);
    environment.enableCheckpointing(1000);
    KafkaSource<Event> events =
        KafkaSource.<Event>builder()
            .setBootstrapServers(bootstrap)
            .setTopics(source)
            .setGroupId(appId)
            .setStartingOffsets(OffsetsInitializer.committedOffsets(OffsetResetStrategy.EARLIEST))
            .setValueOnlyDeserializer(new Reader())
            .build();
    KafkaSink<Result> results =
        KafkaSink.<Result>builder()
            .setBootstrapServers(bootstrap)
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix(appId)
            .setProperty("transaction.timeout.ms", "60000")
            .setRecordSerializer(
                KafkaRecordSerializationSchema.<Result>builder()
                    .setTopic(sink)
                    .setKeySerializationSchema(new Keys())
                    .setValueSerializationSchema(new Values())
                    .build())
            .build();
    environment
        .fromSource(events, WatermarkStrategy.noWatermarks(), "events")
        .keyBy(event -> event.userId)
        .process(new Adder())
        .sinkTo(results);
    environment.execute(appId);
  }
}
