// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

namespace penstock::test {

template <auto Destroy>
struct OpensslFree {
  template <class T>
  void operator()(T* handle) const noexcept {
    Destroy(handle);
  }
};
using PrivateKey = std::unique_ptr<EVP_PKEY, OpensslFree<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, OpensslFree<X509_free>>;

/// An authority that signs certificates into a folder: `<name>.crt`, `<name>.key`, and `<name>.pem` with both; its own is
/// `<authority>.crt`. Elliptic keys, quick to make. Throws std::runtime_error. One thread.
class Authority {
 public:
  Authority(std::filesystem::path folder, const std::string& name) : folder_{std::move(folder)}, key_{new_key()} {
    certificate_ = make(name, "", std::chrono::hours{24}, *key_);
    add(*certificate_, NID_basic_constraints, "critical,CA:TRUE");
    sign(*certificate_);
    write(name, *certificate_, nullptr);
  }

  /// `names` as OpenSSL has them: "DNS:localhost,IP:127.0.0.1"; none for a client's. A negative `life` ended so long ago.
  void issue(const std::string& name, const std::string& names, std::chrono::seconds life = std::chrono::hours{12}) const {
    const PrivateKey key = new_key();
    const Certificate certificate = make(name, names, life, *key);
    X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate_.get()));
    sign(*certificate);
    write(name, *certificate, key.get());
  }
  [[nodiscard]] std::string file(const std::string& name) const { return (folder_ / name).string(); }

 private:
  static void expect(bool done) {
    if (!done) throw std::runtime_error{"OpenSSL cannot make a certificate"};
  }
  static PrivateKey new_key() {
    PrivateKey key{EVP_EC_gen("P-256")};
    expect(key != nullptr);
    return key;
  }
  static void add(X509& certificate, int what, const std::string& value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, what, value.c_str());
    expect(extension != nullptr && X509_add_ext(&certificate, extension, -1) == 1);
    X509_EXTENSION_free(extension);
  }
  static Certificate make(const std::string& name, const std::string& names, std::chrono::seconds life, EVP_PKEY& key) {
    static long serial = 1;
    Certificate certificate{X509_new()};
    expect(certificate != nullptr);
    X509_set_version(certificate.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial++);
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -72 * 3'600);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), static_cast<long>(life.count()));
    X509_set_pubkey(certificate.get(), &key);
    X509_NAME* subject = X509_get_subject_name(certificate.get());
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate.get(), subject);
    if (!names.empty()) add(*certificate, NID_subject_alt_name, names);
    return certificate;
  }
  void sign(X509& certificate) const { expect(X509_sign(&certificate, key_.get(), EVP_sha256()) > 0); }
  void write(const std::string& name, X509& certificate, EVP_PKEY* key) const {
    const std::unique_ptr<BIO, OpensslFree<BIO_free_all>> text{BIO_new(BIO_s_mem())};
    expect(PEM_write_bio_X509(text.get(), &certificate) == 1);
    const std::string shown = take(*text);
    std::ofstream{folder_ / (name + ".crt")} << shown;
    if (key == nullptr) return;
    expect(PEM_write_bio_PKCS8PrivateKey(text.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
    const std::string secret = take(*text);
    std::ofstream{folder_ / (name + ".key")} << secret;
    std::ofstream{folder_ / (name + ".pem")} << secret << shown;
    std::filesystem::permissions(folder_ / (name + ".key"), std::filesystem::perms{0600});
  }
  static std::string take(BIO& bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(&bio, &data);
    std::string text(data, static_cast<std::size_t>(size));
    static_cast<void>(BIO_reset(&bio));
    return text;
  }

  std::filesystem::path folder_;
  PrivateKey key_;
  Certificate certificate_;
};

}  // namespace penstock::test
