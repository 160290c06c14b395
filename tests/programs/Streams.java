// A web server, an echo server and their clients: java Streams.java serve|ask ADDRESS PORT [FILE]
import com.sun.net.httpserver.HttpServer;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;

public class Streams {
    public static void main(String[] arguments) throws Exception {
        InetAddress address = InetAddress.getByName(arguments[1]);
        int port = Integer.parseInt(arguments[2]);
        if (arguments[0].equals("serve")) {
            serve(address, port, Path.of(arguments[3]));
        } else {
            ask(address, port);
        }
    }

    static void serve(InetAddress address, int port, Path file) throws Exception {
        HttpServer http = HttpServer.create(new InetSocketAddress(address, port), 1024);
        http.setExecutor(Executors.newFixedThreadPool(8));
        http.createContext("/", exchange -> {
            byte[] body = switch (exchange.getRequestURI().getPath()) {
                case "/large" -> Files.readAllBytes(file);
                case "/echo" -> exchange.getRequestBody().readAllBytes();
                default -> "small".getBytes();
            };
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        http.start();
        ServerSocket listener = new ServerSocket(port + 1, 1024, address);
        System.out.println("ready");
        while (true) {
            Socket socket = listener.accept();
            new Thread(() -> {
                try (socket; InputStream in = socket.getInputStream()) {
                    in.transferTo(socket.getOutputStream());
                } catch (Exception error) {
                    System.err.println(error);
                }
            }).start();
        }
    }

    static byte[] data(int number) {
        byte[] data = new byte[1000 + number * 4001];
        new Random(number).nextBytes(data);
        return data;
    }

    static void same(byte[] got, byte[] expected) {
        if (!Arrays.equals(got, expected)) {
            throw new IllegalStateException("got other bytes: " + got.length + " for " + expected.length);
        }
    }

    static void ask(InetAddress address, int port) throws Exception {
        InetSocketAddress echo = new InetSocketAddress(address, port + 1);
        for (int number = 0; number < 50; number++) {
            byte[] data = data(number);
            try (Socket socket = new Socket()) {
                socket.connect(echo, 10_000);
                socket.setSoTimeout(20_000);
                Thread writer = new Thread(() -> {
                    try {
                        socket.getOutputStream().write(data);
                        socket.shutdownOutput();
                    } catch (Exception error) {
                        System.err.println(error);
                    }
                });
                writer.start();
                same(socket.getInputStream().readAllBytes(), data);
                writer.join();
            }
            try (SocketChannel channel = SocketChannel.open(echo)) {
                ByteBuffer out = ByteBuffer.wrap(data);
                ByteBuffer in = ByteBuffer.allocate(data.length);
                channel.configureBlocking(false);
                while (in.hasRemaining()) {
                    channel.write(out);
                    if (channel.read(in) < 0) {
                        break;
                    }
                }
                same(in.array(), data);
            }
        }
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        URI uri = URI.create("http://" + address.getHostAddress() + ":" + port + "/echo");
        var answers = new ArrayList<CompletableFuture<Void>>();
        for (int number = 0; number < 50; number++) {
            byte[] data = data(number);
            var request = HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers.ofByteArray(data)).build();
            answers.add(client.sendAsync(request, HttpResponse.BodyHandlers.ofByteArray())
                .thenAccept(answer -> same(answer.body(), data)));
        }
        answers.forEach(CompletableFuture::join);
        System.out.println("sockets, channels and HTTP: 150 answers are what was asked");
    }
}
