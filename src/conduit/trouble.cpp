// SPDX-License-Identifier: Apache-2.0
#include "conduit/trouble.hpp"

#include <cstdio>
#include <new>
#include <utility>

#include "core/tls.hpp"

namespace penstock::conduit {
namespace {

/// Before, librdkafka answers with a nonce that Kafka took only until it looked (CVE-2024-56128).
constexpr int kScramFrom = 0x02060100;

/// The usual ones of OpenSSL's X509_V_ERR_…, in its own words.
const char* words(int x509_error) {
  switch (x509_error) {
    case 7: return "certificate signature failure";
    case 9: return "certificate is not yet valid";
    case 10: return "certificate has expired";
    case 18: return "self-signed certificate";
    case 19: return "self-signed certificate in certificate chain";
    case 20: return "unable to get local issuer certificate";
    case 21: return "unable to verify the first certificate";
    case 62: return "hostname mismatch";
    case 64: return "IP address mismatch";
    default: return nullptr;
  }
}

}  // namespace

void Trouble::listen(rd_kafka_conf_t* conf, Judge* judge) {
  // A librdkafka without TLS has no certificates to judge.
  static_cast<void>(rd_kafka_conf_set_ssl_cert_verify_cb(conf, judge));
}

int Trouble::note(rd_kafka_t* /*client*/, const char* broker, std::int32_t /*id*/, int* x509_error, int /*depth*/,
                  const char* /*certificate*/, std::size_t /*size*/, char* why, std::size_t room, void* self) {
  if (*x509_error == 0) return 1;
  try {
    std::snprintf(why, room, "%s", static_cast<Trouble*>(self)->certificate(broker, *x509_error).c_str());
  } catch (const std::bad_alloc&) {  // NOLINT(bugprone-empty-catch): it is refused without words
  }
  return 0;
}

std::string Trouble::certificate(const char* broker, int x509_error) {
  const char* known = words(x509_error);
  std::string said = known == nullptr ? "OpenSSL's error " + std::to_string(x509_error) : known;
  said = tls::explained("the certificate of broker " + std::string{broker} + " is refused: " + said, "ConduitOptions::tls");
  const std::lock_guard lock{mutex_};
  certificate_ = said;
  return said;
}

void Trouble::connection(rd_kafka_resp_err_t error, const std::string& words) {
  switch (error) {
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__SSL:
    case RD_KAFKA_RESP_ERR__TRANSPORT: break;
    default: return;  // consequences
  }
  std::string said = tls::explained(words, "ConduitOptions::tls");
  if (error == RD_KAFKA_RESP_ERR__AUTHENTICATION && rd_kafka_version() < kScramFrom &&
      said.find("SCRAM") != std::string::npos) {
    said += "; or it is librdkafka " + std::string{rd_kafka_version_str()} +
            ": before 2.6.1 it cannot log in by SCRAM to Kafka 3.7.2, 3.8.1, 3.9 and newer";
  }
  const std::lock_guard lock{mutex_};
  connection_ = std::move(said);
}

void Trouble::over() {
  const std::lock_guard lock{mutex_};
  certificate_.clear();
  connection_.clear();
}

std::string Trouble::suffix() const {
  const std::lock_guard lock{mutex_};
  const std::string& last = certificate_.empty() ? connection_ : certificate_;
  return last.empty() ? last : ": " + last;
}

}  // namespace penstock::conduit
