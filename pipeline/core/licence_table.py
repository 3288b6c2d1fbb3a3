"""What licences are called and say: data for `licences`, which knows what to do with it.

Facts from Blue Oak Council's list, SPDX, PyPI's classifiers and the licences' own texts.
"""

_BLUE_OAK = """
BlueOak-1.0.0 BSD-2-Clause-Patent ADSL Apache-2.0 APAFML BSD-1-Clause BSD-2-Clause
BSD-2-Clause-Views BSL-1.0 DSDP ECL-1.0 ECL-2.0 ImageMagick ISC Linux-OpenIB MIT MS-PL Mup
PostgreSQL Spencer-99 UPL-1.0 Xerox 0BSD AFL-1.1 AFL-1.2 AFL-2.0 AFL-2.1 AFL-3.0 AMDPLPA AML
AMPAS ANTLR-PD Apache-1.0 Apache-1.1 Artistic-2.0 Bahyph Barr BSD-3-Clause
BSD-3-Clause-Attribution BSD-3-Clause-Clear BSD-3-Clause-LBNL
BSD-3-Clause-No-Nuclear-License-2014 BSD-3-Clause-No-Nuclear-Warranty BSD-4-Clause
BSD-4-Clause-UC BSD-Source-Code bzip2-1.0.6 CC0-1.0 CNRI-Jython CNRI-Python
CNRI-Python-GPL-Compatible Cube curl eGenix Entessa FTL IBM-pibs ICU Info-ZIP Intel JasPer-2.0
Libpng libtiff LPPL-1.3c MIT-0 MIT-advertising MIT-CMU MIT-enna MIT-feh MITNFA MTLL Multics
Naumen NCSA NetCDF NTP OLDAP-2.0 OLDAP-2.0.1 OLDAP-2.1 OLDAP-2.2 OLDAP-2.2.1
OLDAP-2.2.2 OLDAP-2.3 OLDAP-2.4 OLDAP-2.5 OLDAP-2.6 OLDAP-2.7 OLDAP-2.8 OML OpenSSL PHP-3.0
PHP-3.01 Plexus Python-2.0 Ruby Saxpath SGI-B-2.0 SMLNJ SWL TCL TCP-wrappers Unicode-DFS-2015
Unicode-DFS-2016 Unlicense VSL-1.0 W3C X11 XFree86-1.1 Xnet xpp Zlib zlib-acknowledgement
ZPL-2.0 ZPL-2.1 AAL Adobe-2006 Afmparse Artistic-1.0 Artistic-1.0-cl8 Artistic-1.0-Perl Beerware
Borceux CECILL-B ClArtistic Condor-1.1 Crossword CrystalStacker diffmark DOC EFL-1.0 EFL-2.0
Fair Giftware HPND IJG Leptonica LPL-1.0 LPL-1.02 MirOS mpich2 NASA-1.3 NBPL-1.0 Newsletr NLPL
NRL OGTSL OLDAP-1.1 OLDAP-1.2 OLDAP-1.3 OLDAP-1.4 psutils Qhull Rdisc RSA-MD Spencer-86
Spencer-94 TU-Berlin-1.0 TU-Berlin-2.0 W3C-19980720 W3C-20150513 Wsuipa WTFPL xinetd Zed
Zend-2.0 ZPL-1.1
"""
BLUE_OAK = frozenset(_BLUE_OAK.split())
"""Blue Oak Council's list, by today's SPDX names."""

_PUBLIC = "LicenseRef-scancode-public-domain"
_CLOSED = "LicenseRef-scancode-proprietary-license"
ALIASES = {
    "Apache-2.0": "apache apache2 apachesoftware apachesoftware2 apachesoftware2.0 asl2 asl2.0 al2.0",
    "MIT": "expat mitx mitstyle mitexpat",
    "BSD-3-Clause": "bsd bsd3 newbsd modifiedbsd revisedbsd 3clausebsd bsdnew bsdstyle newbsd3clause",
    "BSD-2-Clause": "bsd2 simplifiedbsd freebsd 2clausebsd bsdsimplified bsd2clausesimplified",
    "0BSD": "zeroclausebsd bsd0clause bsdzeroclause",
    "ISC": "iscl",
    "PSF-2.0": "psf psfl python pythonsoftwarefoundation psf2",
    "Unlicense": "unlicence",
    "Zlib": "zlibpng zliblibpng",
    "BSL-1.0": "boost boostsoftware boostsoftware1.0 boost1.0",
    "CC0-1.0": "cc0 cc01.0universal cc01.0universalcc01.0publicdomaindedication",
    "MPL-2.0": "mpl mpl2 mozillapublic2 mozillapublic2.0",
    "MPL-1.1": "mozillapublic1.1",
    "EPL-1.0": "eclipsepublic1.0",
    "EPL-2.0": "epl2 eclipsepublic2.0",
    "Artistic-2.0": "artistic artistic2",
    "OFL-1.1": "ofl silopenfont1.1",
    "EUPL-1.2": "europeanunionpublic1.2",
    "CC-BY-4.0": "creativecommonsattribution4.0 creativecommonsattribution4.0international",
    "HPND": "historicalpermissionnoticeanddisclaimer",
    "ZPL-2.1": "zpl zopepublic",
    "NCSA": "universityofillinoisncsaopensource",
    "AFL-3.0": "afl academicfree academicfree3.0",
    "PostgreSQL": "postgres",
    _PUBLIC: "publicdomain pd",
    _CLOSED: "unlicensed proprietary otherproprietary commercial allrightsreserved closedsource",
}
"""Identifier -> what people call it, as `licences.squeezed` leaves it (ours); without a version,
the one that is meant most. npm's `UNLICENSED` says that there is no licence to use it at all."""
TEXTS = """
Apache-2.0: apache license version 2 0
Apache-1.1: the apache software license version 1 1
MPL-2.0: mozilla public license version 2 0
MPL-2.0: mozilla public license v 2 0
MPL-1.1: mozilla public license version 1 1
AGPL-3.0-only: gnu affero general public license version 3 19 november
LGPL-3.0-only: gnu lesser general public license version 3 29 june
LGPL-2.1-only: gnu lesser general public license version 2 1 february
LGPL-2.0-only: gnu library general public license version 2 june
GPL-3.0-only: gnu general public license version 3 29 june
GPL-2.0-only: gnu general public license version 2 june
AGPL-3.0-or-later: the gnu affero general public license as published & either version 3 - 19 november
LGPL-3.0-or-later: the gnu lesser general public license as published & either version 3 - 29 june
LGPL-2.1-or-later: the gnu lesser general public license as published & either version 2 - february 1999
GPL-3.0-or-later: the gnu general public license as published & either version 3 - 29 june
GPL-2.0-or-later: the gnu general public license as published & either version 2 - june 1991
EPL-2.0: eclipse public license v 2 0
EPL-2.0: eclipse public license version 2 0
EPL-1.0: eclipse public license v 1 0
EPL-1.0: eclipse public license version 1 0
CDDL-1.0: common development and distribution license cddl version 1 0
EUPL-1.2: european union public licence v 1 2
SSPL-1.0: server side public license version 1
BUSL-1.1: business source license 1 1
Elastic-2.0: elastic license 2 0
CC0-1.0: cc0 1 0 universal
CC-BY-4.0: attribution 4 0 international
CC-BY-SA-4.0: attribution sharealike 4 0 international
CC-BY-NC-4.0: attribution noncommercial 4 0 international
CC-BY-NC-SA-4.0: attribution noncommercial sharealike 4 0 international
CC-BY-NC-ND-4.0: attribution noncommercial noderivatives 4 0 international
OFL-1.1: sil open font license version 1 1
Artistic-2.0: the artistic license 2 0
MS-PL: microsoft public license ms pl
BSL-1.0: boost software license version 1 0
UPL-1.0: universal permissive license upl version 1 0
MulanPSL-2.0: mulan psl v2
BlueOak-1.0.0: blue oak model license version 1 0 0
WTFPL: do what the fuck you want to public license
Unlicense: released into the public domain & anyone is free to copy modify
Unicode-3.0: unicode license v3
Python-2.0: beopen python open source license agreement
PSF-2.0: python software foundation license - beopen python open source license agreement
Zlib: must not be misrepresented you must not claim that you wrote the original software
PostgreSQL: for any purpose without fee and without a written agreement is hereby granted
HPND: software and its documentation for any purpose and without fee is hereby granted provided that -\
 beopen python open source license agreement
HPND: software and its documentation for any purpose with or without fee is hereby granted provided that
ISC: this software for any purpose with or without fee is hereby granted provided that
0BSD: this software for any purpose with or without fee is hereby granted the software is provided
NCSA: granted free of charge to any person & conditions and the following disclaimers
JSON: granted free of charge & the software shall be used for good not evil
X11: granted free of charge to any person & except as contained in this notice
MIT-0: granted free of charge to any person & sell copies of the software & so the software is provided
MIT: permission is hereby granted free of charge - following disclaimers | good not evil |\
 except as contained in this notice | so the software is provided | to any person or organization |\
 unicode license v3
BSD-4-Clause: redistribution and use in source and binary forms & all advertising materials mentioning
BSD-3-Clause: redistribution and use in source and binary forms & neither the name -\
 all advertising materials mentioning
BSD-3-Clause: redistribution and use in source and binary forms & to endorse or promote -\
 all advertising materials mentioning | apache software license
BSD-2-Clause: redistribution and use in source and binary forms - neither the name |\
 to endorse or promote | all advertising materials mentioning
""".replace("\\\n", "")
"""Identifier: sentences that must all be in a licence file, and after ` - ` any that must not be; as
`licences.words` leaves them. From the licences' own texts."""
