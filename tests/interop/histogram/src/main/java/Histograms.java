import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Base64;
import java.util.Scanner;
import org.HdrHistogram.Histogram;

/** Reads an encoded histogram a line, adds the values that follow it, and writes the result with its percentiles. */
public class Histograms {
    public static void main(String[] arguments) throws Exception {
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            String[] words = lines.nextLine().split(" ");
            ByteBuffer given = ByteBuffer.wrap(Base64.getDecoder().decode(words[0]));
            Histogram histogram = Histogram.decodeFromCompressedByteBuffer(given, 0);
            for (int place = 1; place < words.length; place++) {
                histogram.recordValue(Long.parseLong(words[place]));
            }
            ByteBuffer written = ByteBuffer.allocate(histogram.getNeededByteBufferCapacity());
            int size = histogram.encodeIntoCompressedByteBuffer(written);
            StringBuilder answer =
                    new StringBuilder(Base64.getEncoder().encodeToString(Arrays.copyOf(written.array(), size)));
            for (double percentile : new double[] {50, 90, 99, 99.9, 100}) {
                answer.append(' ').append(histogram.getValueAtPercentile(percentile));
            }
            System.out.println(answer.append(' ').append(histogram.getTotalCount()));
        }
    }
}
