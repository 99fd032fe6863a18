// The shop's part of the page; as delivered it does nothing. Replace this file to use it:
//
//   window.dropgateToken = async () => "eyJ..";      the user's JWT, called before each request; null: not signed in
//   window.dropgateSignIn = "https://shop.example/sign-in?back={return}";   the target of "Sign in"; {return}: this page
//   window.dropgateWords = { en: { title: "Summer drop" } };  other texts, or another language (see words.js)
//
// Without dropgateToken the page uses the token in the link of the shop: /c/summer#token=eyJ..
// The page may send requests to this host only (Content-Security-Policy in _headers): allow others there, under connect-src.
