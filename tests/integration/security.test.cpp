// SPDX-License-Identifier: Apache-2.0
// Encryption, logins and secrets, against servers of this test's own that demand them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <librdkafka/rdkafka.h>
#include <pwd.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "beacon_server.hpp"
#include "lane_broker.hpp"
#include "penstock/beacon.hpp"
#include "penstock/conduit.hpp"
#include "penstock/lane.hpp"
#include "penstock/migrate.hpp"
#include "postgres/connection.hpp"
#include "support/certificates.hpp"
#include "support/nkeys.hpp"
#include "support/ports.hpp"
#include "support/private_postgres.hpp"
#include "support/raw_amqp.hpp"

namespace penstock {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string password = "horse-Battery7staple";
const std::string token = "Tok3n-of-the-test";

/// PostgreSQL, Kafka and RabbitMQ with TLS, started once. The certificate `server` is for localhost and 127.0.0.1, `elsewhere`
/// for another host, `expired` ended yesterday; `worker` is a client's; `stranger` is an authority that signed none of them.
class Place {
 public:
  static Place& instance() {
    static Place place;
    return place;
  }

  [[nodiscard]] std::string file(const std::string& name) const { return (folder / name).string(); }
  [[nodiscard]] TlsOptions tls() const { return {.ca_file = file("authority.crt")}; }
  [[nodiscard]] TlsOptions tls_as_worker() const {
    return {.ca_file = file("authority.crt"), .certificate_file = file("worker.crt"), .key_file = file("worker.key")};
  }
  void write(const std::string& name, const std::string& text) const { std::ofstream{folder / name} << text; }

  std::filesystem::path folder;
  std::string postgres, kafka, amqp;  ///< without encryption
  const int kafka_tls = test::free_port();
  const int kafka_expired = test::free_port();
  const int kafka_elsewhere = test::free_port();
  const int kafka_scram = test::free_port();
  const int amqps = test::free_port();

 private:
  Place() {
    std::string made = (std::filesystem::temp_directory_path() / "penstock-security-XXXXXX").string();
    if (::mkdtemp(made.data()) == nullptr) throw std::system_error{errno, std::generic_category(), "mkdtemp"};
    folder = made;
    std::filesystem::permissions(folder, std::filesystem::perms{0755});
    std::filesystem::create_directory(folder / "servers");
    make_certificates();
    configure_kafka();
    configure_rabbitmq();
    configure_postgres();
    std::stringstream said{test::output_of(services("start --only postgres,kafka,rabbitmq"), folder)};
    for (std::string line; std::getline(said, line);) {
      const auto value = [&line] { return line.substr(line.find('\'') + 1, line.rfind('\'') - line.find('\'') - 1); };
      if (line.find("PENSTOCK_POSTGRES_URL") != std::string::npos) postgres = value();
      if (line.find("PENSTOCK_KAFKA") != std::string::npos) kafka = value();
      if (line.find("PENSTOCK_AMQP_URL") != std::string::npos) amqp = value();
    }
  }
  ~Place() {
    const std::string quiet = " >/dev/null 2>&1; ";
    const std::string end = services("kill postgres kafka rabbitmq") + quiet + services("stop --purge") + quiet;
    static_cast<void>(std::system(end.c_str()));
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
  [[nodiscard]] std::string services(const std::string& command) const {
    return std::string{PENSTOCK_SOURCE_DIR} + "/scripts/services " + command + " --kafka real --dir " + file("servers");
  }

  void make_certificates() const {
    const test::Authority authority{folder, "authority"};
    const test::Authority stranger{folder, "stranger"};
    authority.issue("server", "DNS:localhost,IP:127.0.0.1");
    authority.issue("elsewhere", "DNS:elsewhere.example");
    authority.issue("expired", "DNS:localhost,IP:127.0.0.1", -24h);
    authority.issue("worker", "");
    if (const passwd* owner = ::getpwnam("postgres"); ::getuid() == 0 && owner != nullptr) {  // as it runs then
      for (const char* name : {"server.key", "elsewhere.key", "expired.key"}) {
        if (::chown(file(name).c_str(), owner->pw_uid, owner->pw_gid) != 0) throw std::runtime_error{"chown"};
      }
    }
  }
  void configure_kafka() const {
    const auto listener = [](const std::string& name, int port) { return "," + name + "://localhost:" + std::to_string(port); };
    const std::string ours = listener("TLS", kafka_tls) + listener("EXPIRED", kafka_expired) +
                             listener("ELSEWHERE", kafka_elsewhere) + listener("SCRAM", kafka_scram);
    write("servers/kafka.more",
          "listeners=PLAINTEXT://127.0.0.1:@port@,CONTROLLER://127.0.0.1:@controller@" + ours +
              "\nadvertised.listeners=PLAINTEXT://127.0.0.1:@port@" + ours +
              "\nlistener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TLS:SSL,EXPIRED:SSL,ELSEWHERE:SSL,"
              "SCRAM:SASL_SSL"
              "\nssl.keystore.type=PEM\nssl.keystore.location=" +
              file("server.pem") + "\nssl.truststore.type=PEM\nssl.truststore.location=" + file("authority.crt") +
              "\nlistener.name.tls.ssl.client.auth=required"
              "\nlistener.name.elsewhere.ssl.keystore.type=PEM\nlistener.name.elsewhere.ssl.keystore.location=" +
              file("elsewhere.pem") +
              "\nlistener.name.expired.ssl.keystore.type=PEM\nlistener.name.expired.ssl.keystore.location=" +
              file("expired.pem") +
              "\nlistener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN"
              "\nlistener.name.scram.scram-sha-256.sasl.jaas.config="
              "org.apache.kafka.common.security.scram.ScramLoginModule required;"
              "\nlistener.name.scram.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required "
              "user_worker=\"" +
              password + "\";\n");
    write("servers/kafka.format", "--add-scram\nSCRAM-SHA-256=[name=worker,password=" + password + "]\n");
  }
  void configure_rabbitmq() const {
    write("servers/rabbitmq.plugins", "[rabbitmq_auth_mechanism_ssl].\n");
    write("servers/rabbitmq.more",
          "listeners.ssl.1 = 127.0.0.1:" + std::to_string(amqps) + "\nssl_options.cacertfile = " + file("authority.crt") +
              "\nssl_options.certfile = " + file("server.crt") + "\nssl_options.keyfile = " + file("server.key") +
              "\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = false"
              "\nssl_cert_login_from = common_name\nauth_mechanisms.1 = PLAIN"
              "\nauth_mechanisms.2 = EXTERNAL\nload_definitions = " +
              file("definitions.json") + "\n");
    const auto permission = [](const std::string& user) {
      return R"({"user":")" + user + R"(","vhost":"/","configure":".*","write":".*","read":".*"})";
    };
    write("definitions.json",
          R"({"users":[{"name":"guest","password":"guest","tags":"administrator"},{"name":"worker","password":")" + password +
              R"(","tags":""}],"vhosts":[{"name":"/"}],"permissions":[)" + permission("guest") + "," + permission("worker") +
              "]}");
  }
  void configure_postgres() const {
    write("servers/postgres.more", "ssl = on\nssl_cert_file = '" + file("server.crt") + "'\nssl_key_file = '" +
                                       file("server.key") + "'\nssl_ca_file = '" + file("authority.crt") + "'\nhba_file = '" +
                                       file("hba.conf") + "'\n");
    write("hba.conf",
          "host all postgres 127.0.0.1/32 trust\nhostssl all worker 127.0.0.1/32 scram-sha-256\n"
          "hostssl all by_certificate 127.0.0.1/32 cert map=workers\n");
  }
};

/// Whatever is said, by logs, errors or on stderr, holds none of the secrets.
class Security : public ::testing::Test {
 protected:
  void SetUp() override {
    static_cast<void>(Place::instance());
    ::testing::internal::CaptureStderr();
  }
  void TearDown() override {
    const std::string said = ::testing::internal::GetCapturedStderr() + memo->text() + said_;
    for (const std::string& secret : secrets) EXPECT_THAT(said, Not(HasSubstr(secret)));
  }

  /// What an event that is published there comes to: "confirmed", or the error.
  std::string publish(const Channel& channel, std::chrono::milliseconds timeout = 10s) {
    const Outcome outcome = channel.publisher->publish(lane_test::event(1), timeout);
    said_ += outcome.error + '\n';
    return outcome.confirmed() ? "confirmed" : outcome.error;
  }
  /// The same for what is refused: short waits, until the server was so quick that a reason is there.
  std::string refusal(const Channel& channel, std::chrono::milliseconds timeout) {
    std::string said;
    lane_test::eventually([&] {
      said = publish(channel, timeout);
      const bool late = said.find("slower than that") != std::string::npos || said.find("timed out") != std::string::npos ||
                        said.ends_with("may still be stored") ||
                        said.find("Connection refused") != std::string::npos;  // of localhost's other address
      return !late;
    });
    return said;
  }
  /// Why something is refused.
  std::string error_of(const std::function<void()>& action) {
    try {
      action();
    } catch (const std::exception& error) {
      said_ += std::string{error.what()} + '\n';
      return error.what();
    }
    return "accepted";
  }
  static std::size_t read(Source& source) {
    source.open("readers", nullptr);
    std::size_t count = 0;
    EXPECT_TRUE(lane_test::eventually([&] {
      for (const Message& message : source.poll(10, 100ms)) {
        source.ack(message);
        ++count;
      }
      return count > 0;
    }));
    source.close(5s);
    return count;
  }

  Place& place = Place::instance();
  std::shared_ptr<lane_test::Memo> memo = std::make_shared<lane_test::Memo>();
  std::vector<std::string> secrets{password, token};

 private:
  std::string said_;
};

// --- RabbitMQ ---------------------------------------------------------------------------------------------------------------

class LaneSecurity : public Security {
 protected:
  LaneSecurity() { support::RawAmqp{place.amqp}.declare_as_lane("jobs", false); }
  ~LaneSecurity() override { support::RawAmqp{place.amqp}.remove("jobs"); }
  [[nodiscard]] LaneOptions options(TlsOptions tls, const std::string& host = "127.0.0.1") const {
    return {.url = "amqps://worker@" + host + ":" + std::to_string(place.amqps) + "/%2f",
            .password = password,
            .tls = std::move(tls),
            .logger = memo};
  }
};

TEST_F(LaneSecurity, MessagesLargerThanARecordGoBothWaysEncrypted) {
  for (const char* host : {"127.0.0.1", "localhost"}) {
    Lane lane{options(place.tls(), host)};
    Event event = lane_test::event(1);
    event.data = std::string(100'000, 'x');
    const std::vector<Event> events(10, event);
    for (const Outcome& outcome : lane.channel("jobs").publisher->publish(events, 20s)) EXPECT_TRUE(outcome.confirmed());
    const auto source = lane.source("jobs", {.prefetch = 40});
    source->open("workers", nullptr);
    std::size_t count = 0;
    EXPECT_TRUE(lane_test::eventually([&] {
      for (const Message& message : source->poll(40, 100ms)) {
        EXPECT_EQ(message.event, event);
        source->ack(message);
        ++count;
      }
      return count == events.size();
    }));
    source->close(5s);
  }
}

TEST_F(LaneSecurity, AServerThatCannotProveWhoItIsGetsNothing) {
  const auto refused = [&](const LaneOptions& given) { return refusal(Lane{given}.channel("jobs"), 250ms); };
  EXPECT_THAT(refused(options({.ca_file = place.file("stranger.crt")})),
              AllOf(HasSubstr("certificate"), HasSubstr("LaneOptions::tls.ca_file")));
  EXPECT_THAT(refused(options({})), HasSubstr("LaneOptions::tls.ca_file")) << "the system's authorities";
  EXPECT_THAT(refused(options({.ca_file = place.file("authority.crt"), .server_name = "elsewhere.example"})),
              AllOf(HasSubstr("ostname mismatch"), HasSubstr("LaneOptions::tls.server_name")));
  LaneOptions expired = options(place.tls());  // whoever listens there: the handshake is what fails
  expired.url = "amqps://worker@127.0.0.1:" + std::to_string(place.kafka_expired);
  EXPECT_THAT(refused(expired), AllOf(HasSubstr("certificate has expired"), HasSubstr("renew")));
  LaneOptions plain = options(place.tls());
  plain.url = place.amqp;
  EXPECT_THAT(refused(plain), HasSubstr("speaks no TLS at this port"));
  TlsOptions trusting = {.verify = false};
  EXPECT_EQ(publish(Lane{options(trusting)}.channel("jobs")), "confirmed") << "asked for";
  const TlsOptions named{.ca_file = place.file("authority.crt"), .server_name = "localhost"};
  EXPECT_EQ(publish(Lane{options(named)}.channel("jobs")), "confirmed");
}

TEST_F(LaneSecurity, WorkersLogInByPasswordOrCertificate) {
  LaneOptions wrong = options(place.tls());
  wrong.password = "not-" + password;
  EXPECT_THAT(refusal(Lane{wrong}.channel("jobs"), 250ms), HasSubstr("ACCESS_REFUSED"));
  EXPECT_THAT(error_of([&] { Lane{wrong}.declare({.name = "other"}, 1s); }), HasSubstr("LaneOptions::login"));

  place.write("rabbit-password", password + "\n");
  LaneOptions from_file = options(place.tls());
  from_file.password = Secret::from_file(place.file("rabbit-password"));
  EXPECT_EQ(publish(Lane{from_file}.channel("jobs")), "confirmed");

  LaneOptions certificate = options(place.tls_as_worker());
  certificate.url = "amqps://127.0.0.1:" + std::to_string(place.amqps);
  certificate.password = Secret{};
  certificate.login = LaneOptions::Login::certificate;
  EXPECT_EQ(publish(Lane{certificate}.channel("jobs")), "confirmed");
  certificate.tls = place.tls();
  EXPECT_THAT(error_of([&] { Lane{certificate}; }), HasSubstr("tls.certificate_file"));
}

// --- NATS -------------------------------------------------------------------------------------------------------------------

class BeaconSecurity : public Security {
 protected:
  [[nodiscard]] std::string with(const std::string& certificate) const {
    return "tls { cert_file: \"" + place.file(certificate + ".crt") + "\", key_file: \"" + place.file(certificate + ".key") +
           "\" }\n";
  }
  std::string use(const BeaconOptions& options) { return use(options, 10s); }
  std::string refused(const BeaconOptions& options) { return use(options, 150ms); }

 private:
  std::string use(const BeaconOptions& options, std::chrono::milliseconds timeout) {
    Beacon beacon{options};
    const std::string problem = error_of([&] { beacon.declare({.name = "news"}, timeout); });
    return problem == "accepted" ? publish(beacon.channel("news")) : problem;
  }
};

TEST_F(BeaconSecurity, AServerThatCannotProveWhoItIsGetsNothing) {
  beacon_test::Server good{with("server")};
  beacon_test::Server elsewhere{with("elsewhere")};
  beacon_test::Server expired{with("expired")};
  for (auto* server : {&good, &elsewhere, &expired}) server->start();
  const auto options = [&](const beacon_test::Server& server, TlsOptions tls) {
    return BeaconOptions{.url = server.url(), .tls = std::move(tls), .logger = memo};
  };
  EXPECT_EQ(use(options(good, place.tls())), "confirmed");
  EXPECT_EQ(use({.url = elsewhere.url() + "," + good.url(), .tls = place.tls(), .logger = memo}), "confirmed")
      << "each server is held to its own name, and one is enough";
  EXPECT_THAT(refused(options(good, {.ca_file = place.file("stranger.crt")})), HasSubstr("BeaconOptions::tls.ca_file"));
  EXPECT_THAT(refused(options(good, {})), HasSubstr("BeaconOptions::tls.ca_file")) << "the system's authorities";
  EXPECT_THAT(refused(options(elsewhere, place.tls())), HasSubstr("BeaconOptions::tls.server_name"));
  EXPECT_THAT(refused(options(expired, place.tls())), AllOf(HasSubstr("expired"), HasSubstr("renew")));
  EXPECT_EQ(use(options(elsewhere, {.ca_file = place.file("authority.crt"), .server_name = "elsewhere.example"})), "confirmed");
  EXPECT_EQ(use(options(expired, {.verify = false})), "confirmed") << "asked for";
  EXPECT_THAT(refused({.url = good.url(), .logger = memo}), HasSubstr("BeaconOptions::tls"));
}

TEST_F(BeaconSecurity, WorkersLogInInEveryWay) {
  const test::Nkey user{test::Nkey::Kind::user};
  place.write("user.seed", user.seed());
  beacon_test::Server users{"authorization { users: [ {user: worker, password: \"" + password + "\"}, {nkey: \"" +
                            user.public_key() + "\"} ] }\n"};
  beacon_test::Server tokens{"authorization { token: \"" + token + "\" }\n"};
  users.start();
  tokens.start();
  const std::string as_worker = "nats://worker@" + users.address();
  ::setenv("PENSTOCK_TEST_TOKEN", token.c_str(), 1);
  EXPECT_EQ(use({.url = as_worker, .password = password, .logger = memo}), "confirmed");
  EXPECT_THAT(refused({.url = as_worker, .password = "not-" + password, .logger = memo}), HasSubstr("uthorization"));
  EXPECT_THAT(refused({.url = "nats://worker:not-" + password + "@" + users.address(), .logger = memo}),
              HasSubstr("uthorization"));
  EXPECT_EQ(use({.url = tokens.url(), .token = Secret::from_env("PENSTOCK_TEST_TOKEN"), .logger = memo}), "confirmed");
  EXPECT_EQ(use({.url = users.url(), .nkey = user.public_key(), .nkey_seed_file = place.file("user.seed"), .logger = memo}),
            "confirmed");
  secrets.push_back(user.seed());
}

TEST_F(BeaconSecurity, WorkersLogInByCredentialsFile) {
  const test::Nkey root{test::Nkey::Kind::operator_};
  const test::Nkey account{test::Nkey::Kind::account};
  const test::Nkey system{test::Nkey::Kind::account};
  const test::Nkey user{test::Nkey::Kind::user};
  const std::string limits =
      R"("subs":-1,"conn":-1,"leaf":-1,"imports":-1,"exports":-1,"data":-1,"payload":-1,"wildcards":true)";
  const std::string jetstream = R"(,"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1)";
  const std::string jwt = account.jwt(user.public_key(), R"({"subs":-1,"data":-1,"payload":-1,"pub":{},"sub":{},)"
                                                         R"("type":"user","version":2})");
  place.write("user.creds", "-----BEGIN NATS USER JWT-----\n" + jwt + "\n------END NATS USER JWT------\n\n" +
                                "-----BEGIN USER NKEY SEED-----\n" + user.seed() + "\n------END USER NKEY SEED------\n");
  const auto of_account = [&](const test::Nkey& which, const std::string& more) {
    return which.public_key() + ": \"" +
           root.jwt(which.public_key(), R"({"limits":{)" + limits + more + R"(},"default_permissions":{"pub":{},"sub":{}},)" +
                                            R"("type":"account","version":2})") +
           "\"\n";
  };
  beacon_test::Server server{"operator: \"" + root.jwt(root.public_key(), R"({"type":"operator","version":2})") +
                             "\"\nresolver: MEMORY\nsystem_account: " + system.public_key() + "\nresolver_preload {\n" +
                             of_account(account, jetstream) + of_account(system, "") + "}\n"};
  server.start();
  EXPECT_EQ(use({.url = server.url(), .credentials_file = place.file("user.creds"), .logger = memo}), "confirmed");
  EXPECT_THAT(refused({.url = server.url(), .logger = memo}), HasSubstr("uthorization"));
  secrets.insert(secrets.end(), {user.seed(), jwt});
}

// --- Kafka ------------------------------------------------------------------------------------------------------------------

class ConduitSecurity : public Security {
 protected:
  ConduitSecurity() { Conduit{{.bootstrap_servers = place.kafka}}.declare({.name = "events", .partitions = 1}); }
  [[nodiscard]] ConduitOptions options(int port, TlsOptions tls) const {
    return {
        .bootstrap_servers = "localhost:" + std::to_string(port),
        // localhost has another address too, where nobody listens, and the last thing that was said is what an outcome says.
        .properties = {{"reconnect.backoff.max.ms", "200"}, {"broker.address.family", "v4"}},
        .tls = std::move(tls),
        .logger = memo};
  }
  [[nodiscard]] ConduitOptions scram(const Secret& with) const {
    ConduitOptions made = options(place.kafka_scram, place.tls());
    made.properties["sasl.mechanism"] = "SCRAM-SHA-256";
    made.properties["sasl.username"] = "worker";
    made.secrets["sasl.password"] = with;
    return made;
  }
};

TEST_F(ConduitSecurity, EventsGoBothWaysEncryptedForAKnownClient) {
  Conduit kafka{options(place.kafka_tls, place.tls_as_worker())};
  EXPECT_EQ(publish(kafka.channel("events")), "confirmed");
  EXPECT_GE(read(*kafka.source("events")), 1U);
}

TEST_F(ConduitSecurity, AServerThatCannotProveWhoItIsGetsNothing) {
  const auto refused = [&](const ConduitOptions& given) { return refusal(Conduit{given}.channel("events"), 500ms); };
  TlsOptions stranger = place.tls_as_worker();
  stranger.ca_file = place.file("stranger.crt");
  EXPECT_THAT(refused(options(place.kafka_tls, stranger)), HasSubstr("ConduitOptions::tls.ca_file"));
  EXPECT_THAT(refused(options(place.kafka_expired, place.tls())),
              AllOf(HasSubstr("certificate has expired"), HasSubstr("renew")));
  EXPECT_THAT(refused(options(place.kafka_tls, place.tls())), HasSubstr("ConduitOptions::tls.certificate_file"));
  EXPECT_THAT(error_of([&] { Conduit{options(place.kafka_expired, place.tls())}.declare({.name = "other"}, 700ms); }),
              HasSubstr("certificate has expired"));
  EXPECT_THAT(refused(options(place.kafka_elsewhere, place.tls())), AllOf(HasSubstr("ostname mismatch"), HasSubstr("name")));

  const auto source = Conduit{options(place.kafka_expired, place.tls())}.source("events");
  source->open("readers", nullptr);
  EXPECT_TRUE(source->poll(1, 700ms).empty());
  EXPECT_TRUE(memo->has("conduit source events of readers: the certificate of broker"));
}

TEST_F(ConduitSecurity, WorkersLogInByPassword) {
  ConduitOptions plain = scram(password);
  plain.properties["sasl.mechanism"] = "PLAIN";
  Conduit kafka{plain};
  EXPECT_EQ(publish(kafka.channel("events")), "confirmed");
  EXPECT_GE(read(*kafka.source("events")), 1U);
  plain.secrets["sasl.password"] = "not-" + password;
  EXPECT_THAT(refusal(Conduit{plain}.channel("events"), 1s), HasSubstr("uthentication"));
}

TEST_F(ConduitSecurity, WorkersLogInByScramWhereLibrdkafkaCan) {
  constexpr int fixed = 0x02060100;
  if (rd_kafka_version() >= fixed) {
    EXPECT_EQ(publish(Conduit{scram(password)}.channel("events")), "confirmed");
  } else {
    EXPECT_THAT(refusal(Conduit{scram(password)}.channel("events"), 1s), HasSubstr("before 2.6.1"));
  }
  EXPECT_THAT(refusal(Conduit{scram("not-" + password)}.channel("events"), 1s), HasSubstr("uthentication"));
}

// --- Postgres ---------------------------------------------------------------------------------------------------------------

class PostgresSecurity : public Security {
 protected:
  [[nodiscard]] std::string port() const {
    const auto at = place.postgres.rfind(':') + 1;
    return place.postgres.substr(at, place.postgres.find('/', at) - at);
  }
  /// Connects as the worker; what it comes to.
  std::string connect(const std::string& more, const std::string& host = "localhost", const std::string& with = password) {
    return error_of([&] {
      static_cast<void>(schema_version("host=" + host + " hostaddr=127.0.0.1 port=" + port() +
                                       " dbname=penstock user=worker password=" + with + " " + more));
    });
  }
  void admin(const std::string& sql) const {
    const auto connection = postgres::connect(place.postgres, {});
    pqxx::nontransaction tx{*connection};
    tx.exec(sql);
  }
};

TEST_F(PostgresSecurity, AServerThatCannotProveWhoItIsGetsNothing) {
  admin("DROP ROLE IF EXISTS worker");
  admin("CREATE ROLE worker LOGIN PASSWORD '" + password + "'");
  const std::string ours = "sslrootcert=" + place.file("authority.crt");
  EXPECT_EQ(connect(ours + " sslmode=verify-full"), "accepted");
  EXPECT_EQ(connect(ours), "accepted");
  EXPECT_THAT(connect(ours, "elsewhere.example"), AllOf(HasSubstr("elsewhere.example"), HasSubstr("see host")))
      << "who names an authority is protected without another word";
  EXPECT_THAT(connect("sslrootcert=" + place.file("stranger.crt")), HasSubstr("see sslrootcert"));
  EXPECT_THAT(connect("sslrootcert=/nowhere sslmode=verify-full"), HasSubstr("/nowhere"));
  EXPECT_THAT(connect("sslmode=disable"), HasSubstr("no encryption"));
  EXPECT_THAT(connect(ours, "localhost", "not-" + password), HasSubstr("password authentication failed"));

  admin("ALTER SYSTEM SET ssl_cert_file = '" + place.file("expired.crt") + "'");
  admin("ALTER SYSTEM SET ssl_key_file = '" + place.file("expired.key") + "'");
  admin("SELECT pg_reload_conf()");
  std::string answer;
  EXPECT_TRUE(lane_test::eventually([&] { return (answer = connect(ours)) != "accepted"; }));
  EXPECT_THAT(answer, HasSubstr("expired"));
}

TEST_F(PostgresSecurity, AConnectionStringThatCannotBeReadIsNotRepeated) {
  for (const std::string& url :
       {"postgresql://worker:" + password + "@127.0.0.1:x/db", "postgresql://worker:" + password + "/more@127.0.0.1/db",
        "postgresql://worker:" + password + "@more@127.0.0.1:1/db", "postgresql://worker:a?" + password + "=1@127.0.0.1:1/db",
        "host=127.0.0.1 port=1 password='" + password + "' nonsense",
        "postgresql://127.0.0.1:1/db?password=" + password + "&x=1"}) {
    EXPECT_NE(error_of([&] { static_cast<void>(schema_version(url)); }), "accepted") << url;
  }
}

}  // namespace
}  // namespace penstock
